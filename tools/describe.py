"""A data set described in text and tables, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.dataset_parts import Note
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.finalize import escaped

CUDA_CONVNET2 = {
    "mean R G B": (127.30, 119.72, 104.91),
    "deviations": (121.78, 37.09, 19.72),
    "direction 1": (0.5635, 0.5762, 0.5920),
    "direction 2": (-0.7126, -0.0235, 0.7012),
    "direction 3": (0.4180, -0.8170, 0.3973),
}
"""ImageNet's values in cuda-convnet2 (2014), by the same author; the first direction turned round (it has no sign)."""

SOURCES = {
    "gray": "grayscale",
    "black and white": "black and white",
    "palette": "a palette",
    "CMYK": "CMYK",
    "CIELAB": "CIELAB",
    "YCbCr": "YCbCr",
}
"""What the manifest calls the pixels that a converted image had -> what to call them here."""
SHOWN_CONVERSIONS = 6


def counts_table(dataset: Dataset) -> str:
    """Split, images found, written and skipped, shards, bytes: one line a split, and their sum."""
    rows = {
        split.name: (split.found, split.samples, split.found - split.samples, len(split.shards), split.bytes)
        for split in dataset.splits.values()
    }
    unused = sum(entry.count for entry in dataset.unused)
    if unused:
        rows["not used"] = (unused, 0, unused, 0, 0)
    if len(rows) > 1:
        found, written, skipped, shards, size = (sum(column) for column in zip(*rows.values(), strict=True))
        rows["total"] = (found, written, skipped, shards, size)
    lines = [f"{'':8} {'found':>11} {'written':>11} {'skipped':>9} {'shards':>7} {'size':>9}"]
    for name, (found, written, skipped, shards, size) in rows.items():
        lines.append(f"{name:8} {found:11,} {written:11,} {skipped:9,} {shards:7,} {human_bytes(size):>9}")
    return "\n".join(lines)


def human_bytes(size: int) -> str:
    """Bytes in decimal units, three digits or so: 45.2 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


def describe(dataset: Dataset) -> str:
    """What a data set is: splits, classes, sizes, how it was made, statistics beside ImageNet's."""
    image = dataset.image_options
    classes = counted(len(dataset.classes), "class", "classes")
    shown = ", ".join(escaped(entry.label) for entry in dataset.classes[:6])
    more = ", …" if len(dataset.classes) > 6 else ""
    lines = [
        f"{escaped(dataset.place)}: {classes} ({shown}{more})",
        "",
        counts_table(dataset),
        "",
        f"images      {image.size}×{image.size}, JPEG quality {image.quality}, filter {escaped(image.filter)}, "
        f"EXIF orientation {'applied' if image.exif == 'apply' else 'ignored'}",
        f"made by     {dataset.program}; source {dataset.source}, seed {dataset.seed}"
        + (f", {dataset.val_fraction:g} of train drawn as val" if dataset.val_fraction is not None else ""),
        f"fingerprint {dataset.fingerprint[:16]}",
    ]
    if dataset.repaired:
        lines.append(f"converted   {counted(len(dataset.repaired), 'image')}: {conversions(dataset.repaired)}")
    lines += [f"skipped     {escaped(note.file)}: {escaped(note.reason)}" for note in dataset.skipped[:5]]
    if len(dataset.skipped) > 5:
        lines.append(f"            … and {len(dataset.skipped) - 5:,} more, all in dataset.json")
    lines += [
        f"not used    {entry.count:,} in {escaped(entry.place)}: {escaped(entry.reason)}"
        for entry in dataset.unused[:5]
    ]
    if len(dataset.unused) > 5:
        lines.append(f"            … and more in {counted(len(dataset.unused) - 5, 'place')}, all in dataset.json")
    lines += [f"note        {escaped(note)}" for note in dataset.notes]
    return "\n".join([*lines, "", statistics_table(dataset)])


def conversions(notes: Iterable[Note]) -> str:
    """What was done to how many images, the most frequent first: 12 from grayscale; 3 from CMYK."""
    count: Counter[str] = Counter()
    for note in notes:
        reason, damaged, why = note.reason.partition("damaged, kept: ")
        parts = [part for part in reason.split("; ") if part]
        count.update({in_full(part) for part in parts} | ({f"kept although damaged ({why})"} if damaged else set()))
    common = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number:,} {escaped(what)}" for what, number in common[:SHOWN_CONVERSIONS]]
    return "; ".join([*shown, *(["…"] if len(common) > SHOWN_CONVERSIONS else [])])


def in_full(reason: str) -> str:
    """A reason, as the manifest has it, in a sentence's words."""
    if reason.startswith("EXIF orientation"):
        return "turned upright (EXIF)"
    kind, is_named, extension = reason.partition(" under .")
    if is_named:
        return f"{kind} named .{extension}"
    source = SOURCES.get(reason, reason if reason.endswith(" bit") or reason.startswith("mode ") else "")
    return f"from {source}" if source else reason


def statistics_table(dataset: Dataset) -> str:
    """The statistics beside those of cuda-convnet2 on ImageNet."""
    statistics = dataset.statistics
    rows = [
        ("mean R G B", statistics.mean_rgb),
        ("deviations", statistics.standard_deviations),
        *((f"direction {number + 1}", row) for number, row in enumerate(statistics.directions)),
    ]
    lines = [f"{f'statistics of {statistics.split}':22} {'here':>26}   {'cuda-convnet2, ImageNet':>26}"]
    for name, values in rows:
        digits = 4 if name.startswith("direction") else 2
        theirs = CUDA_CONVNET2[name]
        # A direction and its opposite are the same; show ours turned the way of theirs.
        turn = -1.0 if digits == 4 and sum(a * b for a, b in zip(values, theirs, strict=True)) < 0 else 1.0
        here = " ".join(f"{turn * value:8.{digits}f}" for value in values)
        lines.append(f"{name:22} {here:>26}   {' '.join(f'{value:8.{digits}f}' for value in theirs):>26}")
    return "\n".join(lines)
