"""What will be in which shard: fixed before the first image is read, so that no worker and no accident decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.sharding.image import encoder_version
from alexnet_fast.tools.sources.table import Location, Source
from alexnet_fast.tools.storage.output import Output


@dataclass(frozen=True)
class ShardOptions:
    """Everything that decides the bytes, besides the source."""

    image_options: ImageOptions = field(default_factory=ImageOptions)
    shard_size: int = 1000
    """Most images planned for a shard; a split's shards are planned equally large."""
    seed: int = 0
    """Of the shuffle, and of the drawing of a val split."""
    val_fraction: float | None = None
    """Part of train that became val; None where nothing was drawn."""


class PlannedImage(NamedTuple):
    """An image on its way to a worker."""

    location: Location
    stem: str
    label: int
    origin: str


@dataclass(frozen=True)
class ShardTask:
    """All that a worker must know to make one shard."""

    name: str
    """File name of the tar."""
    images: Sequence[PlannedImage]
    output: Output
    options: ImageOptions
    keep_sums: bool
    """Whether the shard counts for the statistics."""
    strict: bool
    """Whether an image that cannot be used is an error."""
    stored: bool = False
    """Whether the images are JPEGs that this program made with the same options, which are copied as they are."""


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be made."""

    name: str
    split: str
    numbers: npt.NDArray[np.int32]
    """Its images' places in the source's table, in order."""

    @property
    def index_name(self) -> str:
        """File name of the DALI index."""
        return self.name.removesuffix(".tar") + ".idx"


class Plan:
    """The shards of a source.

    Every split is shuffled as a whole.  The generator is numpy's legacy MT19937, whose streams numpy has promised never
    to change.
    """

    def __init__(self, source: Source, options: ShardOptions) -> None:
        self.source = source
        self.options = options
        self.shards: list[PlannedShard] = []
        for place, split in enumerate(source.splits):
            numbers = np.flatnonzero(source.table.split == place).astype(np.int32)
            if len(numbers) == 0:
                raise UsageError(f"The {split} split of the source holds no images. Bring some, or remove it.")
            numbers = numbers[_generator(options.seed, split).permutation(len(numbers))]
            parts = np.array_split(numbers, -(-len(numbers) // options.shard_size))
            self.shards += [PlannedShard(f"{split}-{i:06d}.tar", split, part) for i, part in enumerate(parts)]

    @property
    def statistics_split(self) -> str:
        """The split that the statistics are of."""
        return "train" if "train" in self.source.splits else self.source.splits[0]

    def task(self, shard: PlannedShard, output: Output, strict: bool) -> ShardTask:
        """The shard's task, made when it is needed: only the table knows all images."""
        return ShardTask(
            name=shard.name,
            images=[self.image(number) for number in shard.numbers.tolist()],
            output=output,
            options=self.options.image_options,
            keep_sums=shard.split == self.statistics_split,
            strict=strict,
            stored=self.source.stored == self.options.image_options,
        )

    def image(self, number: int) -> PlannedImage:
        """The image at a place of the source's table."""
        table = self.source.table
        return PlannedImage(table.location(number), table.stem(number), int(table.label[number]), table.origin(number))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run must have in common with the one that began an output; plain JSON."""
        options = asdict(self.options)
        return {
            "source": self.source.kind,
            "fingerprint": self.source.fingerprint(),
            "images": len(self.source.table),
            "encoder": encoder_version(),
            **options.pop("image_options"),
            **options,
        }


def _generator(seed: int, split: str) -> np.random.RandomState:
    digest = hashlib.sha256(f"{seed}/{split}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


_NAMES = {
    "source": "kind of source (--source)",
    "images": "number of images in the source",
    "fingerprint": "list of images in the source (names, sizes, folders or labels changed)",
    "encoder": "JPEG encoder",
    "exif": "--exif",
    "damaged": "--keep-damaged",
    "filter": "--filter",
    "size": "--size",
    "quality": "--quality",
    "shard_size": "--shard-size",
    "seed": "--seed",
    "val_fraction": "--val-fraction",
}


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which entries of two identities differ, for people; empty where none does."""
    found = []
    for key, name in _NAMES.items():
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "fingerprint":
            if before.get("images") == now.get("images") and before.get("source") == now.get("source"):
                found.append(name)
        else:
            found.append(f"{name} was {_shown(old)}, is {_shown(new)}")
    return "; ".join(found)


def _shown(value: Any) -> str:
    return "not given" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def identity_json(identity: dict[str, Any]) -> bytes:
    """An identity's bytes."""
    return (json.dumps(identity, indent=1) + "\n").encode("ascii")
