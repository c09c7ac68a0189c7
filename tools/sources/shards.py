"""Shards that this program made, as a source: to draw another validation split, or to store other sizes or shards."""

from __future__ import annotations

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sources.table import ClassName, Location, Source, TableBuilder, read_bytes
from alexnet_fast.tools.sources.tar_index import ScanCache
from alexnet_fast.tools.storage.filesystem import is_url, join, list_folder, read_range

MARK = b'"alexnet-fast shards"'
"""Near the beginning of our manifest."""


def is_manifest(path: str) -> bool:
    """Whether a file called dataset.json is this program's."""
    try:
        return MARK in (read_range(path, 0, 200) if is_url(path) else read_bytes(Location(path))[:200])
    except UserError:
        return False


def find_shards(root: str, scans: ScanCache) -> Source:
    """The samples of a finished shards folder, with its classes and splits.

    UserError where a shard is missing or is not as long as the manifest says.
    """
    dataset = Dataset.read(root)
    splits = tuple(dataset.splits)
    tars = [shard for split in splits for shard in dataset.splits[split].shards]
    builder = TableBuilder(root, [shard.name for shard in tars])
    container = 0
    there = list_folder(root)
    for number, split in enumerate(splits):
        for shard in dataset.splits[split].shards:
            if shard.name not in there:
                raise UserError(
                    f"{join(root, shard.name)}: is missing, dataset.json names it. Bring it back, or shard again."
                )
            listing = scans.listing(join(root, shard.name), False)
            labels = {name[:-4]: label for name, label in zip(listing.names, listing.labels, strict=True) if label}
            images = [row for row in listing if row[0].endswith(b".jpg")]
            if len(images) != shard.samples:
                raise UserError(
                    f"{join(root, shard.name)}: holds {len(images):,} images, dataset.json says {shard.samples:,}. "
                    "Bring the shard back from a copy."
                )
            for name, offset, size in images:
                builder.add_member(number, int(labels[name[:-4]]), container, name, offset, size)
            container += 1
    return Source(
        "shards",
        f"shards of alexnet-fast in {root}",
        tuple(ClassName(entry.name, entry.label) for entry in dataset.classes),
        splits,
        builder.finish(),
        ("What the shards' own source did not hold, or what was skipped, is in its dataset.json.",),
        label_source="the shards",
        stored=dataset.image_options,
    )
