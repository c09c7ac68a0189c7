"""TensorBoard's files: the numbers of metrics.jsonl by step, written anew from it whenever a run is resumed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.numbers import is_number

NO_CURVES = ("kind", "step", "epoch", "views", "samples", "seconds", "time")
"""Keys of metrics.jsonl that are no curves."""


class Board:
    """Draws lines of metrics.jsonl; an error of its files is reported once and does not stop training.

    Starting from metrics.jsonl keeps both equal after any number of resumes, also where an epoch has another
    number of steps than before, which TensorBoard's own purging by step cannot follow.
    """

    def __init__(self, folder: RunFolder, complain: Callable[[str], None]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._complain = complain
        self._writer: Any = None
        try:
            for old in (folder.path / "tensorboard").glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = SummaryWriter(str(folder.path / "tensorboard"))
        except OSError as error:
            self._give_up(error.strerror)
        except UnicodeEncodeError:
            self._give_up("they need a folder whose name is UTF-8")
        for line in folder.read_metrics():
            self.draw(line)

    def draw(self, line: dict[str, Any]) -> None:
        """A point of each of the line's curves; a number that is not finite (null in the file) has none."""
        group = line.get("split", line["kind"])
        group = group if line.get("views", 1) == 1 else f"{group}_{line['views']}_views"
        for name, value in line.items():
            drawable = isinstance(value, bool) or (is_number(value) and math.isfinite(value))
            if self._writer is None or not drawable or name in NO_CURVES:
                continue
            try:
                self._writer.add_scalar(f"{group}/{name}", float(value), line["step"], walltime=line.get("time"))
            except OSError as error:
                self._give_up(error.strerror)

    def close(self) -> None:
        """Write out what is kept back."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _give_up(self, why: str | None) -> None:
        self._writer = None  # after an error its thread has ended
        self._complain(f"TensorBoard's files could not be written ({why}); training continues without them.")
