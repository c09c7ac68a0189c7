"""What was understood of a source, in lines for people, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alexnet_fast.tools.dataset_parts import Unused
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sources.table import ClassName, Source

SHOWN_CLASSES = 3
"""Names at each end of the list."""
SHOWN_UNUSED = 10
"""Places named; dataset.json has them all."""


def summary(source: Source) -> Iterator[str]:
    """Format, splits, classes, where the labels come from, warnings, notes, and what is not used."""
    yield f"{source.description}: {counted(len(source.table), 'image')}"
    yield f"  format: {source.kind}"
    counts = [int((source.table.split == number).sum()) for number in range(len(source.splits))]
    yield "  splits: " + ", ".join(f"{split} {count:,}" for split, count in zip(source.splits, counts, strict=True))
    yield f"  classes: {len(source.classes):,} ({class_names(source.classes)})"
    if source.label_source:
        yield f"  labels: {source.label_source}"
    for warning in source.warnings:
        yield f"  warning: {warning}"
    for note in source.notes:
        yield f"  {note}"
    yield from unused_lines(source.unused)


def unused_lines(unused: Sequence[Unused]) -> Iterator[str]:
    """The places with what is not used, most images first."""
    order = sorted(unused, key=lambda entry: (-entry.count, entry.place))
    for entry in order[:SHOWN_UNUSED]:
        yield f"  not used: {entry.count:,} in {entry.place}: {entry.reason}"
    rest = order[SHOWN_UNUSED:]
    if rest:
        yield f"  not used: {sum(entry.count for entry in rest):,} in {counted(len(rest), 'more place')}"


def class_names(classes: Sequence[ClassName]) -> str:
    """The first and the last names, with their indices."""
    shown = [
        f"{number} {entry.name}" + (f" {entry.words}" if entry.words != entry.name else "")
        for number, entry in enumerate(classes)
    ]
    if len(shown) <= 2 * SHOWN_CLASSES:
        return ", ".join(shown)
    return ", ".join([*shown[:SHOWN_CLASSES], "…", *shown[-SHOWN_CLASSES:]])
