"""A validation split for sources that have none, drawn out of train."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sources.table import SPLIT_ORDER, ImageTable, Source


def check_fraction(fraction: float) -> None:
    """UsageError where it is no fraction."""
    if not 0 < fraction < 1:
        raise UsageError(f"--val-fraction {fraction:g}: must lie between 0 and 1, such as 0.05.")


def draw_validation(source: Source, fraction: float, seed: int) -> Source:
    """The source with a `val` split of round(fraction × train) images, fewer where classes would be left without one;
    refused where it has one already.
    """
    check_fraction(fraction)
    if "val" in source.splits or "train" not in source.splits:
        raise UsageError(
            f"{source.table.root}: the source has the splits {', '.join(source.splits)}, so a val fraction of "
            f"{fraction} cannot be drawn out of train; leave --val-fraction away."
        )
    held_out = draw(source.table, source.splits.index("train"), fraction, seed)
    if not held_out:
        images = counted(len(source.table), "image")
        raise UsageError(
            f"--val-fraction {fraction:g}: of {images} that is none, as each class keeps one. Give a larger one."
        )
    splits = tuple(split for split in SPLIT_ORDER if split in (*source.splits, "val"))
    moved = np.array([splits.index(split) for split in source.splits], np.uint8)[source.table.split]
    moved[held_out] = splits.index("val")
    order = np.argsort(moved, kind="stable")
    note = f"val is {counted(len(held_out), 'image')} drawn out of train (fraction {fraction:g}, seed {seed})."
    return replace(
        source, splits=splits, table=source.table.rearranged(order, moved[order]), notes=(*source.notes, note)
    )


def draw(table: ImageTable, train: int, fraction: float, seed: int) -> list[int]:
    """The numbers of round(fraction × all) images of split `train`, as even over the classes as whole numbers allow.

    Every class gets the whole part of its share; what is left goes to the largest remainders, equal ones in an order
    drawn from the seed.  Every class keeps an image: one that is never trained on would be an error in any case.
    Drawing is by hash of seed and origin, so it depends neither on the order of the table nor on a random generator's
    version.
    """

    def ticket(name: bytes) -> bytes:
        return hashlib.blake2b(b"%d/" % seed + name, digest_size=16).digest()

    by_class: dict[int, list[int]] = {}
    for number in np.flatnonzero(table.split == train).tolist():
        by_class.setdefault(int(table.label[number]), []).append(number)
    most = {label: len(numbers) - 1 for label, numbers in by_class.items()}
    count = {label: min(int(len(numbers) * fraction), most[label]) for label, numbers in by_class.items()}
    missing = {label: len(numbers) * fraction - count[label] for label, numbers in by_class.items()}
    left = round(sum(map(len, by_class.values())) * fraction) - sum(count.values())
    with_more = [label for label in by_class if count[label] < most[label]]
    for label in sorted(with_more, key=lambda label: (-missing[label], ticket(b"%d" % label)))[: max(left, 0)]:
        count[label] += 1
    return [
        number
        for label, numbers in by_class.items()
        for number in sorted(numbers, key=lambda number: ticket(table.origin_bytes(number)))[: count[label]]
    ]
