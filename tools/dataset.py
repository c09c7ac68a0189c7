"""dataset.json, the contract between the rooms: what a shards folder holds, read, written and checked.

A shards folder: `train-000000.tar`, … with `train-000000.idx` beside each, `dataset.json`, `mean_image.npy`,
`sources.tsv` (sample → source file) and timm's `_info.json`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.output import open_output
from alexnet_fast.tools.storage import as_text, copied_first, is_url

Made = TypeVar("Made")

FORMAT = "alexnet-fast shards"
FORMAT_VERSION = 1
MANIFEST = "dataset.json"
MEAN_IMAGE = "mean_image.npy"
SOURCES = "sources.tsv"
TIMM_INFO = "_info.json"


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
    """Pictures of this split in the source: samples + those left out."""
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
class PictureOptions:
    """How a picture became a sample; see picture.py."""

    size: int = 256
    """Pixels on each side of the stored square."""
    quality: int = 95
    """JPEG quality, 1..100."""
    filter: str = "area"
    """Filter for making smaller: one of picture.FILTERS.  Making larger is always cubic."""
    exif: str = "apply"
    """"apply" turns pictures upright as their EXIF says, "ignore" leaves them as they are stored."""


@dataclass(frozen=True)
class Note:
    """A picture that was repaired or left out, and why."""

    file: str
    """Its path relative to the source, or tar!member."""
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


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says."""

    place: str
    """Where it lies: a folder's path, or a URL."""
    program: str
    """Name and version of the program that wrote it, and of what encoded the JPEGs: bytes may change with these."""
    source: str
    """Kind of the source: one of sources.KINDS."""
    source_fingerprint: str
    """Sha256 over the source's list of pictures: names, sizes, labels."""
    classes: tuple[DatasetClass, ...]
    """In label order."""
    splits: dict[str, Split]
    picture: PictureOptions
    seed: int
    """Of the shuffle, and of the drawing of a val split."""
    shard_size: int
    """Most samples in a shard."""
    val_fraction: float | None
    statistics: Statistics
    repaired: tuple[Note, ...]
    left_out: tuple[Note, ...]
    notes: tuple[str, ...]
    """What the source holds besides, and lacks: pictures in no class folder, without a label; sentences for people."""
    file_hashes: dict[str, str]
    """Sha256 of mean_image.npy and sources.tsv."""

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """Read `path`/dataset.json (or `path`, where it is the file itself) of a shards folder on a disk.

        Raises UsageError where there is no such folder or manifest, or where `path` is a URL; UserError where the
        manifest cannot be understood.
        """
        place = as_text(path)
        if is_url(place):
            raise _must_be_copied(place)
        return cls.read(place)

    @classmethod
    def read(cls, path: Path | str) -> Dataset:
        """As `load`, but from a URL too: enough to describe and to verify the data set, not to train on it."""
        place = as_text(path).rstrip("/") or "/"
        folder, _, name = place.rpartition("/")
        if name == MANIFEST:
            place = folder or "."
        if not is_url(place) and not Path(place).is_dir():
            raise UsageError(f"{place}: there is no such folder. `alexnet-fast shard SOURCE --out {place}` makes it.")
        manifest = open_output(place).read(MANIFEST)
        if manifest is None:
            raise UsageError(
                f"{place}: no shards folder, it has no {MANIFEST}. Give the folder that `alexnet-fast shard` wrote; "
                "if sharding was interrupted, run the same command again to finish it."
            )
        return cls.parse(manifest, place)

    @property
    def folder(self) -> Path:
        """The folder on a disk; UsageError where the data set lies behind a URL."""
        if is_url(self.place):
            raise _must_be_copied(self.place)
        return Path(self.place)

    @classmethod
    def parse(cls, manifest: bytes, place: str) -> Dataset:
        """From the manifest's bytes; UserError, as from `load`."""
        file = f"{place}/{MANIFEST}"
        try:
            content = json.loads(manifest.decode("utf-8"))
            version = content["version"] if content["format"] == FORMAT else None
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{file}: format {content['format']!r}, version {content['version']!r}; this program reads "
                    f"{FORMAT!r}, version {FORMAT_VERSION}. Shard again, or use the version that wrote it."
                )
            return cls._from_json(place, content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{file}: is damaged ({type(error).__name__}: {error}). Bring it back from a copy, or shard again."
            ) from error

    @classmethod
    def _from_json(cls, place: str, content: dict[str, Any]) -> Dataset:
        statistics = content["statistics"]
        return cls(
            place=place,
            program=_of(str, content["program"]),
            source=_of(str, content["source"]["kind"]),
            source_fingerprint=_of(str, content["source"]["fingerprint"]),
            classes=tuple(DatasetClass(_of(str, name), _of(str, label)) for name, label in content["classes"]),
            splits={name: _split_from_json(name, split) for name, split in content["splits"].items()},
            picture=_from_fields(PictureOptions, content["options"]["picture"]),
            seed=_of(int, content["options"]["seed"]),
            shard_size=_of(int, content["options"]["shard_size"]),
            val_fraction=_of((float, type(None)), content["options"]["val_fraction"]),
            statistics=Statistics(
                split=_of(str, statistics["split"]),
                mean_rgb=np.array(statistics["mean_rgb"], dtype=np.float64).reshape(3),
                covariance=np.array(statistics["covariance"], dtype=np.float64).reshape(3, 3),
                standard_deviations=np.array(statistics["standard_deviations"], dtype=np.float64).reshape(3),
                directions=np.array(statistics["directions"], dtype=np.float64).reshape(3, 3),
            ),
            repaired=_notes_from_json(content["repaired"]),
            left_out=_notes_from_json(content["left_out"]),
            # Absent in the first shards ever made.
            notes=tuple(_of(str, note) for note in content["notes"]),
            file_hashes={name: _of(str, content["files"][name]) for name in (MEAN_IMAGE, SOURCES)},
        )

    def to_json(self) -> bytes:
        """The manifest's bytes; the same for the same data set, wherever its folder is."""
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "program": self.program,
            "source": {"kind": self.source, "fingerprint": self.source_fingerprint},
            "options": {
                "seed": self.seed,
                "shard_size": self.shard_size,
                "val_fraction": self.val_fraction,
                "picture": vars(self.picture),
            },
            "accounting": self.accounting(),
            "classes": [[entry.name, entry.label] for entry in self.classes],
            "splits": {
                name: {
                    "samples": split.samples,
                    "found": split.found,
                    "shards": [vars(shard) for shard in split.shards],
                }
                for name, split in self.splits.items()
            },
            "statistics": {
                "split": self.statistics.split,
                "mean_rgb": self.statistics.mean_rgb.tolist(),
                "covariance": self.statistics.covariance.tolist(),
                "standard_deviations": self.statistics.standard_deviations.tolist(),
                "directions": self.statistics.directions.tolist(),
            },
            "repaired": _notes_to_json(self.repaired),
            "left_out": _notes_to_json(self.left_out),
            "notes": list(self.notes),
            "files": self.file_hashes,
        }
        content["checksum"] = manifest_checksum(content)
        return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode("ascii")

    def accounting(self) -> dict[str, int]:
        """Pictures found = written + left out."""
        return {
            "found": sum(split.found for split in self.splits.values()),
            "written": sum(split.samples for split in self.splits.values()),
            "left_out": len(self.left_out),
        }

    @cached_property
    def mean_image(self) -> npt.NDArray[np.float32]:
        """(size, size, 3), values 0..255, read from mean_image.npy when first asked for."""
        file = self.folder / MEAN_IMAGE
        try:
            mean = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file}: cannot be read ({error}). {self._remedy()}") from error
        if mean.shape != (self.picture.size, self.picture.size, 3) or mean.dtype != np.float32:
            raise UserError(
                f"{file}: is {mean.dtype} {mean.shape}, not float32 ({self.picture.size}, {self.picture.size}, 3). "
                f"{self._remedy()}"
            )
        return np.asarray(mean, dtype=np.float32)

    def split(self, name: str) -> Split:
        """The split of that name; UsageError, with those there are, where there is none."""
        if name not in self.splits:
            raise UsageError(f"{self.place}: has no {name} split, only {', '.join(self.splits)}.")
        return self.splits[name]

    def tars(self, split: str) -> list[Path]:
        """The split's tars in order."""
        return [self.folder / shard.name for shard in self.split(split).shards]

    def indexes(self, split: str) -> list[Path]:
        """The DALI indexes of `tars`, in the same order."""
        return [self.folder / shard.index_name for shard in self.split(split).shards]

    def check_sizes(self, split: str | None = None) -> None:
        """UserError naming the first shard that is missing or has another size, or whose index is not the one written.

        Of one split, or of all.  Reads the indexes, some 80 kB of each shard; `alexnet-fast verify` reads every byte.
        """
        for part in self.splits.values() if split is None else [self.split(split)]:
            for shard in part.shards:
                self._check_tar(shard)
                self._check_index(shard)

    def _check_tar(self, shard: Shard) -> None:
        file = self.folder / shard.name
        if not file.is_file():
            raise UserError(f"{file}: is missing. {self._remedy()}")
        if file.stat().st_size != shard.bytes:
            raise UserError(
                f"{file}: has {file.stat().st_size:,} bytes, {MANIFEST} says {shard.bytes:,}. {self._remedy()}"
            )

    def _check_index(self, shard: Shard) -> None:
        """Hashed, not only looked for: DALI trusts it, and reads wrong bytes or crashes where it does not fit."""
        file = self.folder / shard.index_name
        try:
            content = file.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{file}: is missing. {self._remedy()}") from error
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}).") from error
        if hashlib.sha256(content).hexdigest() != shard.index_sha256:
            raise UserError(f"{file}: is not what was written with {shard.name} (sha256 differs). {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"Copy the folder again, or run the same `alexnet-fast shard … --out {self.place}` again: "
            "it makes anew what is missing or damaged, but does not read tars of the right size: remove a bad one."
        )

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 over what defines the samples and their order: shards' hashes, classes, splits, statistics."""
        digest = hashlib.sha256()
        for entry in self.classes:
            digest.update(f"{entry.name}\0".encode("utf-8", "surrogatepass"))
        for name, split in self.splits.items():
            digest.update(f"{name}\0".encode())
            for shard in split.shards:
                digest.update(f"{shard.name} {shard.samples} {shard.sha256}\0".encode())
        digest.update(self.file_hashes[MEAN_IMAGE].encode())
        digest.update(repr(self.statistics.covariance.tolist()).encode())
        return digest.hexdigest()


def _must_be_copied(url: str) -> UsageError:
    return UsageError(
        f"{url}: pictures are read from a disk, not from a store. Bring them to this machine first: "
        f"{copied_first(url)}; then give that folder."
    )


def manifest_checksum(content: dict[str, Any]) -> str:
    """Sha256 in hex of a manifest's content, its own entry `checksum` excepted; `verify` compares, loading does not."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode("ascii")).hexdigest()


def _notes_to_json(notes: tuple[Note, ...]) -> dict[str, list[str]]:
    """Reason -> files: ImageNet has some 19,000 grey pictures, and need not say so 19,000 times."""
    by_reason: dict[str, list[str]] = {}
    for note in notes:
        by_reason.setdefault(note.reason, []).append(note.file)
    return {reason: sorted(by_reason[reason]) for reason in sorted(by_reason)}


def _notes_from_json(by_reason: dict[str, list[str]]) -> tuple[Note, ...]:
    return tuple(Note(_of(str, file), reason) for reason, files in by_reason.items() for file in _of(list, files))


def _split_from_json(name: str, split: dict[str, Any]) -> Split:
    shards = tuple(_from_fields(Shard, shard) for shard in split["shards"])
    return Split(name, _of(int, split["samples"]), _of(int, split["found"]), shards)


def _from_fields(kind: type[Made], fields: dict[str, Any]) -> Made:
    """A dataclass of JSON's own types; TypeError where an entry is missing, unknown or of another type."""
    for name, hint in get_type_hints(kind).items():
        _of(hint, fields[name])
    return kind(**fields)


def _of(kind: type | tuple[type, ...], value: Any) -> Any:
    """The value; TypeError where it is of another type: what is wrong shows here, not as a traceback of its use."""
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]!r} is of the wrong type")
    return value
