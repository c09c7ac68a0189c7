"""The end of sharding: records become dataset.json and what stands beside it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from alexnet_fast.tools.dataset import (
    CARD,
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
from alexnet_fast.tools.sharding.image import program_version
from alexnet_fast.tools.sharding.other_readers import dataset_card, timm_info
from alexnet_fast.tools.sharding.plan import Plan
from alexnet_fast.tools.sharding.statistics import PixelSums
from alexnet_fast.tools.sharding.tar_writer import index_stems
from alexnet_fast.tools.sharding.worker import ShardRecord, read_record
from alexnet_fast.tools.storage.output import Output


def finish(plan: Plan, output: Output) -> Dataset:
    """Merge the records of all shards and write the files beside them, dataset.json last.

    Raises UserError where nothing of a split could be used, or where a shard that was made is not in the output.
    """
    options, source = plan.options, plan.source
    sums = PixelSums(options.image_options.size)
    records: list[ShardRecord] = []
    for planned in plan.shards:
        stored = read_record(output, planned.name)
        if stored is None:
            raise UserError(
                f"{output}: {planned.name} is not there, though a worker has written it. Do the workers reach --out "
                "under this path, on the same disk? Give a folder that all of them share, or a URL."
            )
        records.append(stored[0])
        if stored[1]:
            sums.merge(stored[1])
    splits = {split: _split(split, plan, records) for split in source.splits}
    _check_usable(splits, records)
    file_hashes = {
        MEAN_IMAGE: write_file(output, MEAN_IMAGE, [mean_image_file(sums)]),
        SOURCES: write_file(output, SOURCES, source_lines(plan, output)),
    }
    dataset = Dataset(
        place=str(output),
        program=program_version(),
        source=source.kind,
        source_fingerprint=source.fingerprint(),
        classes=tuple(DatasetClass(entry.name, entry.words) for entry in source.classes),
        splits=splits,
        image_options=options.image_options,
        seed=options.seed,
        shard_size=options.shard_size,
        val_fraction=options.val_fraction,
        statistics=sums.statistics(plan.statistics_split),
        repaired=_sorted_notes(note for record in records for note in record.repaired),
        skipped=_sorted_notes(note for record in records for note in record.skipped),
        notes=(*source.warnings, *source.notes),
        file_hashes=file_hashes,
        unused=source.unused,
    )
    counts = dataset.accounting()
    everything = len(source.table) + sum(entry.count for entry in source.unused)
    assert counts["found"] == counts["written"] + counts["skipped"] == everything, counts
    info = write_file(output, TIMM_INFO, [timm_info(dataset)])
    dataset = replace(dataset, file_hashes=file_hashes | {TIMM_INFO: info})
    write_file(output, CARD, [dataset_card(dataset)])
    write_file(output, MANIFEST, [dataset.to_json()])
    return dataset


def _split(name: str, plan: Plan, records: list[ShardRecord]) -> Split:
    mine = [record for planned, record in zip(plan.shards, records, strict=True) if planned.split == name]
    shards = tuple(record.shard for record in mine if record.shard.samples)
    return Split(name, sum(shard.samples for shard in shards), sum(record.found for record in mine), shards)


def _check_usable(splits: dict[str, Split], records: list[ShardRecord]) -> None:
    for split in splits.values():
        if split.samples == 0:
            reasons = [f"{note.file}: {note.reason}" for record in records for note in record.skipped]
            raise UserError(
                f"No image of the {split.name} split can be used, of {split.found:,}. For example "
                f"{'; '.join(reasons[:3])}. Repair the source and run again with a new --out."
            )


def _sorted_notes(notes: Iterator[Note]) -> tuple[Note, ...]:
    """In the order that dataset.json gives them back in."""
    return tuple(sorted(notes, key=lambda note: (note.reason, note.file)))


def mean_image_file(sums: PixelSums) -> bytes:
    """mean_image.npy."""
    stream = io.BytesIO()
    np.save(stream, sums.mean_image())
    return stream.getvalue()


def source_lines(plan: Plan, output: Output) -> Iterator[bytes]:
    """sources.tsv: stem, shard and source file of every sample, in the order of the shards.

    The indexes say what became a sample, since two images may have the same source name (twice in one tar).
    """
    yield b"sample\tshard\tsource\n"
    table = plan.source.table
    for planned in plan.shards:
        index = output.read(planned.index_name)
        stems = index_stems(index) if index else frozenset()
        for number in planned.numbers.tolist():
            stem = table.stem(number)
            if stem in stems:
                yield f"{stem}\t{planned.name}\t{reversible(table.origin_bytes(number))}\n".encode()


def reversible(name: bytes) -> str:
    """A file's name as text in one line that leads back to its bytes.

    A backslash is doubled, a byte that is no UTF-8 becomes \\xff, and the rest is as in `escaped`.
    """
    return escaped(name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace"))


def escaped(text: str) -> str:
    """Text without line ends and what else a terminal would obey: \\t, \\n, \\r, \\x1b, from U+0080 on \\u202e."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    return repr(character)[1:-1] if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def write_file(output: Output, name: str, parts: Iterable[bytes]) -> str:
    """Write a file; returns its sha256 in hex."""
    digest = hashlib.sha256()
    with output.create(name) as file:
        for part in parts:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()
