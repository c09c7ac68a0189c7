"""What dataset.json is made of: its records, and each one's form in JSON, checked when it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

Made = TypeVar("Made")


@dataclass(frozen=True)
class Shard:
    """One tar and its index."""

    name: str
    """File name, such as train-000000.tar."""
    samples: int
    bytes: int
    """Size of the tar."""
    sha256: str
    """Of the tar, in hex."""
    index_sha256: str
    """Of the index beside it, in hex."""

    @property
    def index_name(self) -> str:
        """File name of the DALI index."""
        return self.name.removesuffix(".tar") + ".idx"


@dataclass(frozen=True)
class Split:
    """One split: its shards in order."""

    name: str
    """train, val or test."""
    samples: int
    found: int
    """Images of this split in the source: samples + those skipped."""
    shards: tuple[Shard, ...]

    @property
    def bytes(self) -> int:
        """Size of its tars."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class DatasetClass:
    """One class; its place in the list is its label."""

    name: str
    """The folder's name, or the wnid."""
    label: str
    """For people: ImageNet's name of a wnid, else `name` again."""


@dataclass(frozen=True)
class ImageOptions:
    """How an image became a sample; see image.py."""

    size: int = 256
    """Pixels on each side of the stored square."""
    quality: int = 95
    """JPEG quality, 1..100."""
    filter: str = "area"
    """Filter for making smaller: one of image.FILTERS.  Making larger is always cubic."""
    exif: str = "apply"
    """"apply" turns images upright as their EXIF says, "ignore" leaves them as they are stored."""
    damaged: str = "skip"
    """"skip" leaves damaged JPEGs out, "keep" stores what can be decoded of them; both are listed."""


@dataclass(frozen=True)
class Note:
    """An image that was converted and how, or that was skipped and why."""

    file: str
    """Its path relative to the source, or tar!member."""
    reason: str


@dataclass(frozen=True)
class Unused:
    """What lies in the source, may be data and is in no split."""

    place: str
    """A folder, a tar or a file, relative to the source."""
    count: int
    """Images; files where it is no image (an archive)."""
    reason: str


@dataclass(frozen=True)
class Statistics:
    """Statistics of a split's stored pixels (values 0..255, RGB) as they were before the JPEG encoder."""

    split: str
    """The split they are of: train, where there is one."""
    mean_rgb: npt.NDArray[np.float64]
    """(3,)"""
    covariance: npt.NDArray[np.float64]
    """(3, 3), over all pixels."""
    standard_deviations: npt.NDArray[np.float64]
    """(3,): square roots of the covariance's eigenvalues, largest first."""
    directions: npt.NDArray[np.float64]
    """(3, 3): unit eigenvectors in rows, ordered as `standard_deviations`; the largest entry of each is positive."""


def notes_to_json(notes: tuple[Note, ...]) -> dict[str, list[str]]:
    """Reason -> files: ImageNet has some 19,000 gray images, and need not say so 19,000 times."""
    by_reason: dict[str, list[str]] = {}
    for note in notes:
        by_reason.setdefault(note.reason, []).append(note.file)
    return {reason: sorted(by_reason[reason]) for reason in sorted(by_reason)}


def notes_from_json(by_reason: dict[str, list[str]]) -> tuple[Note, ...]:
    return tuple(Note(typed(str, file), reason) for reason, files in by_reason.items() for file in typed(list, files))


def splits_from_json(splits: dict[str, Any]) -> dict[str, Split]:
    if not splits:
        raise ValueError("it has no split")
    return {plain(name): split_from_json(name, split) for name, split in splits.items()}


def split_from_json(name: str, split: dict[str, Any]) -> Split:
    shards = tuple(from_fields(Shard, shard) for shard in split["shards"])
    if not shards:
        raise ValueError(f"its split {name} has no shard")
    for shard in shards:
        if "/" in plain(shard.name) or not shard.name.endswith(".tar"):  # a path would lead out of the folder
            raise ValueError(f"{shard.name!r} is no shard's name")
        if shard.samples < 1:
            raise ValueError(f"its shard {shard.name} has no samples")
        hash_from_json(shard.sha256)
        hash_from_json(shard.index_sha256)
    samples, in_shards = typed(int, split["samples"]), sum(shard.samples for shard in shards)
    if samples != in_shards:
        raise ValueError(f"its split {name} has {samples:,} samples, its shards have {in_shards:,}")
    return Split(name, samples, typed(int, split["found"]), shards)


def classes_from_json(classes: list[Any]) -> tuple[DatasetClass, ...]:
    if not classes:
        raise ValueError("it has no class")
    return tuple(DatasetClass(typed(str, name), typed(str, label)) for name, label in classes)


def plain(text: Any) -> str:
    """Text that this program wrote: printable ASCII; ValueError for any other."""
    if not typed(str, text).isascii() or not text.isprintable():
        raise ValueError(f"{text!r} is no plain text")
    return str(text)


def hash_from_json(text: Any) -> str:
    """A sha256 in hex."""
    if not re.fullmatch("[0-9a-f]{64}", typed(str, text)):
        raise ValueError(f"{text!r} is no sha256")
    return str(text)


def from_fields(kind: type[Made], fields: dict[str, Any]) -> Made:
    """A dataclass of JSON's own types; TypeError where an entry is missing, unknown or of another type."""
    for name, hint in get_type_hints(kind).items():
        typed(hint, fields[name])
    return kind(**fields)


def typed(kind: type | tuple[type, ...], value: Any) -> Any:
    """The value; TypeError where it is of another type: what is wrong shows here, not as a traceback of its use."""
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]!r} is of the wrong type")
    return value


def statistics_from_json(statistics: dict[str, Any]) -> Statistics:
    return Statistics(
        split=plain(statistics["split"]),
        mean_rgb=numbers(statistics["mean_rgb"], 3),
        covariance=numbers(statistics["covariance"], 3, 3),
        standard_deviations=numbers(statistics["standard_deviations"], 3),
        directions=numbers(statistics["directions"], 3, 3),
    )


def statistics_to_json(statistics: Statistics) -> dict[str, Any]:
    return {
        "split": statistics.split,
        "mean_rgb": statistics.mean_rgb.tolist(),
        "covariance": statistics.covariance.tolist(),
        "standard_deviations": statistics.standard_deviations.tolist(),
        "directions": statistics.directions.tolist(),
    }


def numbers(values: Any, *shape: int) -> npt.NDArray[np.float64]:
    """An array of that shape; ValueError where it cannot be, or where a number is none."""
    array = np.array(values, dtype=np.float64).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("a statistic is not finite")
    return array
