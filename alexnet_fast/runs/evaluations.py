"""The evaluations of a run, kept apart by their views and their split: errors of two splits are two things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

VIEWS = {1: "center view", 10: "ten views"}


class Way(NamedTuple):
    """How an evaluation was made."""

    views: int
    """A key of VIEWS."""
    split: str

    def __str__(self) -> str:
        """center view; ten views, test split"""
        return VIEWS[self.views] + ("" if self.split == "val" else f", {self.split} split")

    @property
    def curve(self) -> str:
        """validation, center view; test split, ten views"""
        return f"{'validation' if self.split == 'val' else f'{self.split} split'}, {VIEWS[self.views]}"


def split_of(line: Mapping[str, Any]) -> str:
    """Of a `val` line of metrics.jsonl."""
    return str(line.get("split", "val"))


def evaluations(metrics: Sequence[dict[str, Any]]) -> dict[Way, list[dict[str, Any]]]:
    """The `val` lines of metrics.jsonl, those of the center view first."""
    found: dict[Way, list[dict[str, Any]]] = {}
    for line in metrics:
        if line["kind"] == "val" and line["views"] in VIEWS:
            found.setdefault(Way(int(line["views"]), split_of(line)), []).append(line)
    return dict(sorted(found.items(), key=lambda item: item[0].views))


def last_evaluations(result: Mapping[str, Any], val_split: str, final_split: str) -> list[tuple[Way, dict[str, Any]]]:
    """Those in result.json: the center view on `val_split`, then the evaluation at the end on `final_split`.

    The center view at the end on the same split is omitted: it is the former, perhaps in another precision.
    """
    found = [(Way(1, val_split), "center_view"), (Way(10, final_split), "10_views")]
    if final_split != val_split:
        found.append((Way(1, final_split), "1_views"))
    return [(way, result[key]) for way, key in found if result.get(key)]
