"""Class folders: `train/<class>/…` and `val/<class>/…`, or `<class>/…` alone."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.imagenet_classes import classes_by_wnid
from alexnet_fast.tools.picture_table import ClassName, Source, TableBuilder

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders of a split are called -> the split."""

SPLIT_ORDER = ("train", "val", "test")

PICTURE_EXTENSIONS = frozenset(
    b".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
"""A file with one of these is a picture of the source, whatever is in it; what cannot be read is left out by name."""


def text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def is_picture(name: bytes) -> bool:
    """By the name alone, so that no file is opened; `._x.jpg` and the like are an operating system's side files."""
    dot = name.rfind(b".")
    return dot > 0 and name[dot:].lower() in PICTURE_EXTENSIONS and not name.startswith(b".")


def class_name(name: str) -> ClassName:
    """A class by its folder's name, with ImageNet's words where the name is one of its wnids."""
    known = classes_by_wnid().get(name)
    return ClassName(name, known.name if known else name)


@dataclass
class OtherFiles:
    """Files that are no pictures by their name: counted, so that nothing of a source goes unmentioned."""

    extensions: Counter[str] = field(default_factory=Counter)

    def add(self, name: bytes) -> None:
        extension = Path(text(name)).suffix.lower()
        self.extensions["hidden" if name.startswith(b".") else extension or "no extension"] += 1

    def notes(self) -> list[str]:
        if not self.extensions:
            return []
        common = ", ".join(f"{name} {count:,}" for name, count in self.extensions.most_common(5))
        return [f"{self.extensions.total():,} other files are no pictures by their name and are not used ({common})."]


def walk(folder: bytes, relative: bytes = b"", above: tuple[str, ...] = ()) -> Iterator[tuple[bytes, list[bytes]]]:
    """(path relative to `folder`, file names) of it and of every folder below, both sorted by their bytes.

    Links are followed, but never round a circle.  Hidden folders and what archivers leave (`__MACOSX`) are not entered.
    """
    path = folder + b"/" + relative if relative else folder
    files, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.name.startswith(b".") and entry.name != b"__MACOSX":
                    folders.append(entry.name)
            else:
                files.append(entry.name)
    yield relative, sorted(files)
    here = (*above, os.path.realpath(os.fsdecode(path)))
    for name in sorted(folders):
        below = relative + b"/" + name if relative else name
        if os.path.realpath(os.fsdecode(folder + b"/" + below)) not in here:
            yield from walk(folder, below, here)


def subfolders(folder: Path, exclude: Path | None) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones and without the output folder."""
    excluded = exclude.resolve() if exclude else None
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")) and entry.resolve() != excluded
    )


def split_folders(root: Path, exclude: Path | None) -> dict[str, str]:
    """Split -> the folder that holds it, in `SPLIT_ORDER`; empty where the root holds no such folder."""
    found: dict[str, str] = {}
    for name in subfolders(root, exclude):
        split = SPLIT_NAMES.get(name.lower())
        if split in found:
            raise UsageError(
                f"{root}: {found[split]!r} and {name!r} are both the {split} split; move one of them away."
            )
        if split:
            found[split] = name
    return {split: found[split] for split in SPLIT_ORDER if split in found}


@dataclass
class SplitFiles:
    """What one split's folder (or the root, where there is no split folder) holds."""

    split: str
    prefix: bytes
    """The split's folder relative to the root, with a slash; or nothing."""
    folders: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Folder relative to the split's -> the sorted names of the pictures directly in it."""
    empty: set[bytes] = field(default_factory=set)
    """First-level folders without a picture in them or below."""
    num_loose: int = 0
    """Pictures that lie in no class folder."""


def list_split(root: Path, split: str, name: str, exclude: Path | None, others: OtherFiles) -> SplitFiles:
    """List one split; `name` is its folder, or "" for the root itself."""
    folder = root / name
    listed = SplitFiles(split, os.fsencode(name) + b"/" if name else b"")
    for entry in folder.iterdir():
        if not entry.is_dir():
            if is_picture(os.fsencode(entry.name)):
                listed.num_loose += 1
            else:
                others.add(os.fsencode(entry.name))
    for first in subfolders(folder, exclude):
        has_pictures = False
        for relative, files in walk(os.fsencode(folder), os.fsencode(first)):
            pictures = [file for file in files if is_picture(file)]
            for file in files:
                if not is_picture(file):
                    others.add(file)
            if pictures:
                listed.folders[relative] = pictures
                has_pictures = True
        if not has_pictures:
            listed.empty.add(os.fsencode(first))
    return listed


def class_of_folder(folders: set[bytes]) -> dict[bytes, bytes]:
    """Folder with pictures -> its class: the topmost folder on its path that holds pictures itself.

    `animals/dog/1.jpg` makes the class `animals/dog`; `dog/1.jpg` and `dog/close/2.jpg` are both `dog`.  A folder with
    a single class below it is the class (`n01443537/images/1.jpg` is `n01443537`, as Tiny ImageNet has it).
    """
    tops: dict[bytes, bytes] = {}
    for folder in folders:
        parts = folder.split(b"/")
        paths = (b"/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        tops[folder] = next(path for path in paths if path in folders)
    below: dict[bytes, set[bytes]] = {}
    for top in tops.values():
        below.setdefault(top.split(b"/")[0], set()).add(top)
    return {folder: first if len(below[first := top.split(b"/")[0]]) == 1 else top for folder, top in tops.items()}


def few(names: list[str]) -> str:
    """The first three of a list of names, and how many more."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def check_folders(root: Path, splits: list[SplitFiles], others: OtherFiles) -> None:
    """UsageError where there is nothing to shard or a class folder is empty."""
    if not any(listed.folders for listed in splits):
        loose = sum(listed.num_loose for listed in splits)
        seen = f"{loose:,} pictures in no class folder" if loose else " ".join(others.notes()) or "no files"
        raise UsageError(
            f"{root}: no pictures in class folders. Looked for train/<class>/…, val/<class>/… and <class>/…; "
            f"found {seen}."
        )
    empty = sorted({text(listed.prefix + name) for listed in splits for name in listed.empty})
    if empty:
        raise UsageError(
            f"{root}: no picture in the class folder {few(empty)}. Bring its pictures, or remove the folder."
        )


def find_class_folders(
    root: Path, *, val_fraction: float | None = None, seed: int = 0, exclude: Path | None = None
) -> Source:
    """Class folders under `root`.

    Without split folders every picture is in `train`.  `val_fraction` (0..1) draws a `val` split out of `train`,
    seeded and as even over the classes as it goes; it is refused where there is a `val` split already.
    """
    others = OtherFiles()
    names = split_folders(root, exclude) or {"train": ""}
    splits = [list_split(root, split, name, exclude, others) for split, name in names.items()]
    check_folders(root, splits, others)
    class_of = class_of_folder({folder for listed in splits for folder in listed.folders})
    in_train = {class_of[folder] for listed in splits if listed.split == "train" for folder in listed.folders}
    for listed in splits:
        unknown = sorted({text(class_of[folder]) for folder in listed.folders} - {text(name) for name in in_train})
        if in_train and unknown:
            raise UsageError(
                f"{root}: the {listed.split} split has the class {few(unknown)}, which the train split has not. "
                "The same classes must have the same folder names in every split."
            )
    class_names = sorted(set(class_of.values()))
    index_of = {name: index for index, name in enumerate(class_names)}

    def pictures(listed: SplitFiles) -> Iterator[tuple[int, bytes]]:
        for folder in sorted(listed.folders, key=lambda folder: (class_of[folder], folder)):
            for file in listed.folders[folder]:
                yield index_of[class_of[folder]], listed.prefix + folder + b"/" + file

    notes = folder_notes(root, splits, names, exclude) + others.notes()
    held_out: set[bytes] = set()
    if val_fraction is not None:
        if "val" in names:
            raise UsageError(
                f"{root}: has a val split of its own ({names['val']}/), so a val fraction of {val_fraction} cannot be "
                "drawn out of train; leave --val-fraction away."
            )
        held_out = draw_fraction(
            [picture for listed in splits if listed.split == "train" for picture in pictures(listed)],
            val_fraction,
            seed,
        )
        notes.append(f"val is {len(held_out):,} pictures drawn out of train (fraction {val_fraction:g}, seed {seed}).")
    elif "val" not in names:
        notes.append(
            f"No validation split: only {' and '.join(names)} is sharded (--val-fraction would draw one out of train)."
        )
    present = tuple(split for split in SPLIT_ORDER if split in names or (split == "val" and held_out))
    builder = TableBuilder(str(root.absolute()))
    for split in present:
        for listed in splits:
            for label, origin in pictures(listed):
                if split == ("val" if origin in held_out else listed.split):
                    builder.add(present.index(split), label, origin)
    return Source(
        "folders",
        f"class folders in {root}: {len(class_names):,} classes, {', '.join(present)}",
        tuple(class_name(text(name)) for name in class_names),
        present,
        builder.finish(),
        tuple(notes),
    )


def folder_notes(root: Path, splits: list[SplitFiles], names: dict[str, str], exclude: Path | None) -> list[str]:
    """What lies in the source and is not sharded."""
    notes = []
    for listed in splits:
        if listed.num_loose:
            place = text(listed.prefix) or "the source itself"
            notes.append(f"{listed.num_loose:,} pictures lie in {place}, in no class folder, and are not used.")
    beside = sorted(set(subfolders(root, exclude)) - set(names.values())) if "" not in names.values() else []
    if beside:
        notes.append(f"Not a split and not used: {few(beside)}.")
    return notes


def draw_fraction(pictures: list[tuple[int, bytes]], fraction: float, seed: int) -> set[bytes]:
    """The origins of round(fraction × all) pictures, as even over the classes as whole numbers allow.

    pictures: (label, origin).  Every class gets the whole part of its share; what is left goes to the largest
    remainders, equal ones in an order drawn from the seed.  A class of two or more pictures keeps one.  Drawing is by
    hash of seed and origin, so it depends neither on the order of the list nor on a random generator's version.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"The val fraction must lie between 0 and 1, but is {fraction}.")

    def draw(name: bytes) -> bytes:
        return hashlib.blake2b(b"%d/" % seed + name, digest_size=16).digest()

    by_class: dict[int, list[bytes]] = {}
    for label, origin in pictures:
        by_class.setdefault(label, []).append(origin)
    most = {label: max(len(origins) - 1, 1) for label, origins in by_class.items()}
    count = {label: min(int(len(origins) * fraction), most[label]) for label, origins in by_class.items()}
    left = round(len(pictures) * fraction) - sum(count.values())
    missing = {label: len(origins) * fraction - count[label] for label, origins in by_class.items()}
    for label in sorted(by_class, key=lambda label: (-missing[label], draw(b"%d" % label)))[: max(left, 0)]:
        count[label] = min(count[label] + 1, most[label])
    held_out = {origin for label, origins in by_class.items() for origin in sorted(origins, key=draw)[: count[label]]}
    if not held_out:
        raise UsageError(
            f"A val fraction of {fraction} of {len(pictures):,} pictures is none; give a larger one, or leave it away."
        )
    return held_out
