"""The end of sharding: records become dataset.json and what stands beside it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_fast import __version__
from alexnet_fast.tools.dataset import (
    MANIFEST,
    MEAN_IMAGE,
    SOURCES,
    TIMM_INFO,
    Dataset,
    DatasetClass,
    Note,
    Split,
)
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.output import Output
from alexnet_fast.tools.picture import encoder_version
from alexnet_fast.tools.plan import Plan
from alexnet_fast.tools.shard_worker import ShardRecord, read_record
from alexnet_fast.tools.statistics import PixelSums


def finish(plan: Plan, output: Output) -> Dataset:
    """Merge the records of all shards and write the files beside them, dataset.json last.

    Raises UserError where nothing of a split could be used.
    """
    options, source = plan.options, plan.source
    sums = PixelSums(options.picture.size)
    records: list[ShardRecord] = []
    for planned in plan.shards:
        stored = read_record(output, planned.name)
        assert stored is not None, planned.name
        records.append(stored[0])
        if stored[1]:
            sums.merge(stored[1])
    splits = {split: _split(split, plan, records) for split in source.splits}
    _check_usable(splits, records)
    file_hashes = {
        MEAN_IMAGE: _write(output, MEAN_IMAGE, [_mean_image(sums)]),
        SOURCES: _write(output, SOURCES, _source_lines(plan, records)),
    }
    dataset = Dataset(
        folder=Path(str(output)),
        program=f"alexnet-fast {__version__}, {encoder_version()}",
        source=source.kind,
        source_fingerprint=source.fingerprint(),
        classes=tuple(DatasetClass(entry.name, entry.words) for entry in source.classes),
        splits=splits,
        picture=options.picture,
        seed=options.seed,
        shard_size=options.shard_size,
        val_fraction=options.val_fraction,
        statistics=sums.statistics(plan.statistics_split),
        repaired=_sorted_notes(note for record in records for note in record.repaired),
        left_out=_sorted_notes(note for record in records for note in record.left_out),
        file_hashes=file_hashes,
    )
    counts = dataset.accounting()
    assert counts["found"] == counts["written"] + counts["left_out"] == len(source.table), counts
    _write(output, TIMM_INFO, [timm_info(dataset)])
    _write(output, MANIFEST, [dataset.to_json()])
    return dataset


def _split(name: str, plan: Plan, records: list[ShardRecord]) -> Split:
    mine = [record for planned, record in zip(plan.shards, records, strict=True) if planned.split == name]
    shards = tuple(record.shard for record in mine if record.shard.samples)
    return Split(name, sum(shard.samples for shard in shards), sum(record.found for record in mine), shards)


def _check_usable(splits: dict[str, Split], records: list[ShardRecord]) -> None:
    for split in splits.values():
        if split.samples == 0:
            reasons = [f"{note.file}: {note.reason}" for record in records for note in record.left_out]
            raise UserError(
                f"None of the {split.found:,} pictures of the {split.name} split can be used. For example "
                f"{'; '.join(reasons[:3])}. Mend the source and run again with a new --out."
            )


def _sorted_notes(notes: Iterator[Note]) -> tuple[Note, ...]:
    """In the order that dataset.json gives them back in."""
    return tuple(sorted(notes, key=lambda note: (note.reason, note.file)))


def _mean_image(sums: PixelSums) -> bytes:
    stream = io.BytesIO()
    np.save(stream, sums.mean_image())
    return stream.getvalue()


def _source_lines(plan: Plan, records: list[ShardRecord]) -> Iterator[bytes]:
    """sources.tsv: stem, shard and source file of every sample, in the order of the shards."""
    yield b"sample\tshard\tsource\n"
    for planned, record in zip(plan.shards, records, strict=True):
        left_out = {note.file for note in record.left_out}
        for number in planned.numbers.tolist():
            origin = plan.source.table.origin(number)
            if origin not in left_out:
                line = f"{plan.source.table.stem(number)}\t{planned.name}\t{escaped(origin)}\n"
                yield line.encode("utf-8", "backslashreplace")


def escaped(origin: str) -> str:
    """A source file's name without tabs and line ends, which become \\t, \\n and \\r; a backslash is doubled."""
    for character, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        origin = origin.replace(character, written)
    return origin


def timm_info(dataset: Dataset) -> bytes:
    """What timm's WebDataset reader looks for (timm/data/readers/reader_wds.py)."""
    splits = {
        name: {
            "name": name,
            "num_samples": split.samples,
            "filenames": [shard.name for shard in split.shards],
            "shard_lengths": [shard.samples for shard in split.shards],
        }
        for name, split in dataset.splits.items()
    }
    return (json.dumps({"splits": splits}, indent=1) + "\n").encode("ascii")


def _write(output: Output, name: str, parts: list[bytes] | Iterator[bytes]) -> str:
    """Write a file; returns its sha256 in hex."""
    digest = hashlib.sha256()
    with output.create(name) as file:
        for part in parts:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()
