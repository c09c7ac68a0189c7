"""dataset.json, the contract between the rooms: what a shards folder holds, read, written and checked.

A shards folder: `train-000000.tar`, … with `train-000000.idx` beside each, `dataset.json`, `mean_image.npy`,
`sources.tsv` (sample → source file), timm's `_info.json` and a card for Hugging Face, `README.md`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.dataset_parts import (
    DatasetClass,
    ImageOptions,
    Note,
    Shard,
    Split,
    Statistics,
    Unused,
    classes_from_json,
    from_fields,
    hash_from_json,
    notes_from_json,
    notes_to_json,
    plain,
    splits_from_json,
    statistics_from_json,
    statistics_to_json,
    typed,
)
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import command
from alexnet_fast.tools.storage.filesystem import as_text, check_regular, copied_first, is_url, open_file, unreadable
from alexnet_fast.tools.storage.output import open_output
from alexnet_fast.tools.storage.work_names import WORK

__all__ = ["Dataset", "DatasetClass", "ImageOptions", "Note", "Shard", "Split", "Statistics", "manifest_checksum"]

FORMAT = "alexnet-fast shards"
FORMAT_VERSION = 2
MANIFEST = "dataset.json"
MEAN_IMAGE = "mean_image.npy"
SOURCES = "sources.tsv"
TIMM_INFO = "_info.json"
CARD = "README.md"

SHARD_FILES = (".tar", ".idx", ".npy", ".tsv")
"""Ends of the names of what lies beside the manifest."""

ONLY_A_COPY = "Bring it back from a copy; without one, shard again into a new --out."
"""What to do when the manifest is lost or damaged: nothing else says what the shards are made of."""


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
    """Sha256 over the source's list of images: names, sizes, labels."""
    classes: tuple[DatasetClass, ...]
    """In label order."""
    splits: dict[str, Split]
    image_options: ImageOptions
    seed: int
    """Of the shuffle, and of the drawing of a val split."""
    shard_size: int
    """Most samples in a shard."""
    val_fraction: float | None
    statistics: Statistics
    repaired: tuple[Note, ...]
    skipped: tuple[Note, ...]
    notes: tuple[str, ...]
    """What the source holds besides, and lacks: images in no class folder, without a label; sentences for people."""
    file_hashes: dict[str, str]
    """Sha256 of mean_image.npy, sources.tsv and, since version 2, timm's _info.json."""
    unused: tuple[Unused, ...] = ()
    """What else in the source may be data: images in no class folder, without a label, archives."""

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
        if str(path) == "":
            raise UsageError("DATA is empty. Give the shards folder, or leave it out for ./shards.")
        place = as_text(path).rstrip("/") or "/"
        folder, _, name = place.rpartition("/")
        if name == MANIFEST:
            place = folder or "."
        if not is_url(place) and not Path(place).is_dir():
            raise _no_folder(Path(place))
        output = open_output(place)
        manifest = output.read(MANIFEST)
        if manifest is None:
            raise _no_manifest(place, output.names())
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
            if version == 1:
                content = _from_version_1(content)
                version = content["version"]
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{file}: format {content['format']!r}, version {content['version']!r}; this program reads "
                    f"{FORMAT!r}, version {FORMAT_VERSION}. Use the version that wrote it, or shard again into a new "
                    "--out."
                )
            return cls._from_json(place, content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: is damaged ({type(error).__name__}: {error}). {ONLY_A_COPY}") from error

    @classmethod
    def _from_json(cls, place: str, content: dict[str, Any]) -> Dataset:
        return cls(
            place=place,
            program=plain(content["program"]),
            source=plain(content["source"]["kind"]),
            source_fingerprint=hash_from_json(content["source"]["fingerprint"]),
            classes=classes_from_json(content["classes"]),
            splits=splits_from_json(content["splits"]),
            image_options=from_fields(ImageOptions, content["options"]["image_options"]),
            seed=typed(int, content["options"]["seed"]),
            shard_size=typed(int, content["options"]["shard_size"]),
            val_fraction=typed((float, type(None)), content["options"]["val_fraction"]),
            statistics=statistics_from_json(content["statistics"]),
            repaired=notes_from_json(content["repaired"]),
            skipped=notes_from_json(content["skipped"]),
            # Absent in the first shards ever made.
            notes=tuple(typed(str, note) for note in content.get("notes", ())),
            file_hashes=file_hashes_from_json(content["files"]),
            # Absent in older shards, whose notes say it.
            unused=tuple(from_fields(Unused, entry) for entry in content.get("unused", ())),
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
                "image_options": vars(self.image_options),
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
            "statistics": statistics_to_json(self.statistics),
            "repaired": notes_to_json(self.repaired),
            "skipped": notes_to_json(self.skipped),
            "unused": [vars(entry) for entry in self.unused],
            "notes": list(self.notes),
            "files": self.file_hashes,
        }
        content["checksum"] = manifest_checksum(content)
        return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode("ascii")

    def accounting(self) -> dict[str, int]:
        """Found = written + skipped, over everything in the source that may be data, used or not."""
        unused = sum(entry.count for entry in self.unused)
        return {
            "found": sum(split.found for split in self.splits.values()) + unused,
            "written": sum(split.samples for split in self.splits.values()),
            "skipped": len(self.skipped) + unused,
        }

    @cached_property
    def mean_image(self) -> npt.NDArray[np.float32]:
        """(size, size, 3), values 0..255, read from mean_image.npy when first asked for."""
        file = self.folder / MEAN_IMAGE
        try:
            with open_file(file) as opened:
                mean = np.lib.format.read_array(opened, allow_pickle=False)
        except OSError as error:
            raise self._unreadable(file, error) from error
        except Exception as error:  # whatever numpy raises on damaged bytes
            raise UserError(f"{file}: cannot be read ({error}). {self._remedy()}") from error
        expected = (self.image_options.size, self.image_options.size, 3)
        if mean.shape != expected or mean.dtype != np.float32:
            raise UserError(f"{file}: is {mean.dtype} {mean.shape}, not float32 {expected}. {self._remedy()}")
        if not (mean >= 0).all() or not (mean <= 255).all():  # NaN is neither
            raise UserError(f"{file}: holds values that are not within 0 and 255. {self._remedy()}")
        return np.asarray(mean, dtype=np.float32)

    def split(self, name: str) -> Split:
        """The split of that name; UsageError, with those there are, where there is none."""
        if name not in self.splits:
            raise UsageError(f"{self.place}: has no {name} split. Choose {' or '.join(self.splits)}.")
        return self.splits[name]

    def tars(self, split: str) -> list[Path]:
        """The split's tars in order."""
        return [self.folder / shard.name for shard in self.split(split).shards]

    def indexes(self, split: str) -> list[Path]:
        """The DALI indexes of `tars`, in the same order."""
        return [self.folder / shard.index_name for shard in self.split(split).shards]

    def check_sizes(self, split: str | None = None) -> None:
        """UserError naming the first shard that is missing or has another size, or whose index is not the one written.

        Of one split, or of all.  Reads the indexes, some 80 kB of each shard, but not again those that have not changed
        since this object last read them; `alexnet-fast verify` reads every byte.
        """
        for part in self.splits.values() if split is None else [self.split(split)]:
            for shard in part.shards:
                self._check_tar(shard)
                self._check_index(shard)

    def _check_tar(self, shard: Shard) -> None:
        file = self.folder / shard.name
        try:
            check_regular(file)
        except OSError as error:
            raise self._unreadable(file, error) from error
        if file.stat().st_size != shard.bytes:
            raise UserError(
                f"{file}: has {file.stat().st_size:,} bytes, {MANIFEST} says {shard.bytes:,}. {self._remedy()}"
            )

    def _check_index(self, shard: Shard) -> None:
        """Hashed, not only looked for: DALI trusts it, and reads wrong bytes or crashes where it does not fit."""
        file = self.folder / shard.index_name
        try:
            status = file.stat()
            version = (status.st_ino, status.st_size, status.st_ctime_ns)
            if self._hashed.get(shard.index_name) == version:
                return
            with open_file(file) as opened:
                content = opened.read()
        except OSError as error:
            raise self._unreadable(file, error) from error
        if hashlib.sha256(content).hexdigest() != shard.index_sha256:
            raise UserError(f"{file}: is not what was written with {shard.name} (sha256 differs). {self._remedy()}")
        self._hashed[shard.index_name] = version

    @cached_property
    def _hashed(self) -> dict[str, tuple[int, int, int]]:
        """Index -> inode, bytes and time of the last change (ns) of the file that was found to be the one written."""
        return {}

    def _unreadable(self, file: Path, error: OSError) -> UserError:
        if isinstance(error, FileNotFoundError):
            return UserError(f"{file}: is missing. {self._remedy()}")
        return unreadable(file, error, self._remedy())

    def _remedy(self) -> str:
        return (
            f"Copy the folder again, or run the same {command('shard', '…', '--out', self.place)} again: "
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


def file_hashes_from_json(files: dict[str, Any]) -> dict[str, str]:
    """File -> its hash, of those that stand beside the shards."""
    return {
        name: hash_from_json(files[name])
        for name in (MEAN_IMAGE, SOURCES, TIMM_INFO)
        if name != TIMM_INFO or name in files
    }


def _no_folder(path: Path) -> UsageError:
    """What is wrong with a place that is no folder."""
    if path.is_symlink() and not path.exists():
        return UsageError(f"{path}: is a link that leads nowhere. Repair it, or give the folder itself.")
    if not path.exists():
        return UsageError(f"{path}: there is no such folder. {command('shard', 'SOURCE', '--out', path)} makes it.")
    if path.suffix in SHARD_FILES:
        return UsageError(f"{path}: is one file. Give the shards folder that holds it, such as {path.parent}.")
    return UsageError(f"{path}: is a file. Give a shards folder, one with {MANIFEST} in it.")


def _no_manifest(place: str, names: list[str]) -> UsageError:
    """What is wrong with a folder that holds these, and no manifest."""
    if WORK in names:
        return UsageError(
            f"{place}: its shards are not finished, there is no {MANIFEST} yet. Run the command that began them again: "
            "it resumes where it stopped."
        )
    if any(name.endswith(".idx") for name in names):
        return UsageError(f"{place}: its {MANIFEST} is lost. {ONLY_A_COPY}")
    return UsageError(
        f"{place}: no shards folder, it has no {MANIFEST}. Give the folder that `alexnet-fast shard` wrote."
    )


def _must_be_copied(url: str) -> UsageError:
    return UsageError(
        f"{url}: images are read from a disk, not from a store. Bring them to this machine first: "
        f"{copied_first(url)}; then give that folder."
    )


def manifest_checksum(content: dict[str, Any]) -> str:
    """Sha256 in hex of a manifest's content, its own entry `checksum` excepted; `verify` compares, loading does not."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode("ascii")).hexdigest()


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 (before any release) in the names of version 2; `checksum` covers the original names."""
    options = {("image_options" if key == "picture" else key): value for key, value in content["options"].items()}
    options["image_options"] = options["image_options"] | {"damaged": "keep"}  # it stored them unnoticed
    renamed = {("skipped" if key == "left_out" else key): value for key, value in content.items()}
    return renamed | {"version": FORMAT_VERSION, "options": options}
