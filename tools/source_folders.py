"""Class folders: `train/<class>/…` and `val/<class>/…`, or `<class>/…` alone; ILSVRC-2012's flat `val/*.JPEG` too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.imagenet_classes import classes_by_wnid, imagenet_classes, validation_labels
from alexnet_fast.tools.picture_table import ClassName, Source, TableBuilder
from alexnet_fast.tools.source_tree import Tree, few, read_tree, text

SPLIT_NAMES = {
    b"train": "train",
    b"training": "train",
    b"val": "val",
    b"valid": "val",
    b"validation": "val",
    b"test": "test",
    b"testing": "test",
}
"""What folders of a split are called -> the split."""

SPLIT_ORDER = ("train", "val", "test")

VALIDATION_NAME = re.compile(rb"ILSVRC2012_val_(\d{8})\.JPEG\Z")


def class_name(name: str) -> ClassName:
    """A class by its folder's name, with ImageNet's words where the name is one of its wnids."""
    known = classes_by_wnid().get(name)
    return ClassName(name, known.name if known else name)


@dataclass(frozen=True)
class Group:
    """Pictures of one folder and one class."""

    split: str
    name: bytes
    """The class."""
    folder: bytes
    """Relative to the root."""
    files: list[bytes]
    """Sorted names."""

    def origins(self) -> Iterator[bytes]:
        return (self.folder + b"/" + file for file in self.files)


def split_folders(root: str, tree: Tree) -> dict[str, bytes]:
    """Split -> its folder with a slash behind it, in `SPLIT_ORDER`; where there is none, the root itself is `train`.

    A folder is a split by its name, if some folder of such a name has class folders: else "train" may be a class of
    vehicles beside "car".
    """
    found: dict[str, bytes] = {}
    for name in tree.first_level():
        split = SPLIT_NAMES.get(name.lower())
        if split in found:
            raise UsageError(
                f"{root}: {text(found[split])} and {text(name)}/ are both the {split} split; move one away."
            )
        if split:
            found[split] = name + b"/"
    others = {name + b"/" for name in tree.first_level()} - set(found.values())
    are_classes = not any(tree.first_level(folder) for folder in found.values()) and any(map(tree.below, others))
    if not found or are_classes:
        return {"train": b""}
    return {split: found[split] for split in SPLIT_ORDER if split in found}


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


def flat_validation(tree: Tree, prefix: bytes, classes: Iterable[bytes]) -> list[Group]:
    """ILSVRC-2012's validation pictures as they come out of their tar, grouped by the labels built in.

    Only those of `classes` (wnids), where there are any: a part of ImageNet may be trained with the whole val folder.
    """
    wnids = [entry.wnid.encode() for entry in imagenet_classes()]
    wanted = set(classes) or set(wnids)
    by_class: dict[bytes, list[bytes]] = {}
    for file in tree.pictures.get(prefix[:-1], []):
        matched = VALIDATION_NAME.match(file)
        if matched and 1 <= int(matched[1]) <= len(validation_labels()):
            wnid = wnids[validation_labels()[int(matched[1]) - 1]]
            if wnid in wanted:
                by_class.setdefault(wnid, []).append(file)
    return [Group("val", wnid, prefix[:-1], files) for wnid, files in by_class.items()]


def group_pictures(tree: Tree, splits: dict[str, bytes]) -> list[Group]:
    """All pictures that have a class, by split, class and folder, sorted."""
    listed = {split: tree.below(prefix) for split, prefix in splits.items()}
    class_of = class_of_folder({folder[len(splits[split]) :] for split in listed for folder in listed[split]})
    groups = [
        Group(split, class_of[folder[len(splits[split]) :]], folder, files)
        for split, folders in listed.items()
        for folder, files in folders.items()
    ]
    if "val" in splits and not listed["val"]:
        groups += flat_validation(tree, splits["val"], (group.name for group in groups))
    return sorted(groups, key=lambda group: (SPLIT_ORDER.index(group.split), group.name, group.folder))


def check_groups(root: str, tree: Tree, splits: dict[str, bytes], groups: list[Group]) -> None:
    """UsageError: there is nothing to shard, a class folder is empty, or a split has a class that train has not."""
    if not groups:
        loose = sum(map(len, tree.pictures.values()))
        seen = f"{loose:,} pictures in no class folder" if loose else " ".join(tree.notes()) or "no files"
        raise UsageError(
            f"{root}: no pictures in class folders. Looked for train/<class>/…, val/<class>/… and <class>/…; "
            f"found {seen}."
        )
    filled = {
        folder[: len(prefix)] + folder[len(prefix) :].split(b"/")[0]
        for prefix in splits.values()
        for folder in tree.below(prefix)
    }
    empty = [
        text(prefix + name)
        for prefix in splits.values()
        for name in tree.first_level(prefix)
        if prefix + name not in filled
    ]
    if empty:
        raise UsageError(
            f"{root}: no picture in the class folder {few(empty)}. Bring its pictures, or remove the folder."
        )
    in_train = {group.name for group in groups if group.split == "train"}
    for split in splits:
        unknown = sorted({text(group.name) for group in groups if group.split == split and group.name not in in_train})
        if in_train and unknown:
            raise UsageError(
                f"{root}: the {split} split has the class {few(unknown)}, which the train split has not. "
                "The same classes must have the same folder names in every split."
            )


def folder_notes(tree: Tree, splits: dict[str, bytes], groups: list[Group]) -> list[str]:
    """What lies in the source and is not sharded, so that every picture is accounted for."""
    notes = []
    used: dict[bytes, int] = {}
    for group in groups:
        used[group.folder] = used.get(group.folder, 0) + len(group.files)
    for folder in sorted({b"", *(prefix[:-1] for prefix in splits.values())}):
        loose = len(tree.pictures.get(folder, [])) - used.get(folder, 0)
        if loose:
            place = f"{text(folder)}/" if folder else "the source itself"
            notes.append(f"{loose:,} pictures lie in {place}, in no class folder, and are not used.")
    for name in tree.first_level() if b"" not in splits.values() else []:
        count = sum(map(len, [*tree.below(name + b"/").values(), tree.pictures.get(name, [])]))
        if name + b"/" not in splits.values() and count:
            notes.append(f"{count:,} pictures lie in {text(name)}/, which is no split, and are not used.")
    return notes + tree.notes()


def find_class_folders(
    root: str, *, val_fraction: float | None = None, seed: int = 0, exclude: Path | None = None
) -> Source:
    """Class folders under `root`, an absolute path or a URL.

    Without split folders every picture is in `train`.  `val_fraction` (0..1) draws a `val` split out of `train`,
    seeded and as even over the classes as it goes; it is refused where there is a `val` split already.
    """
    tree = read_tree(root, exclude)
    splits = split_folders(root, tree)
    groups = group_pictures(tree, splits)
    check_groups(root, tree, splits, groups)
    notes = folder_notes(tree, splits, groups)
    present = {group.split for group in groups}
    held_out: set[bytes] = set()
    if val_fraction is not None:
        if "val" in present:
            raise UsageError(
                f"{root}: has a val split of its own ({text(splits['val'])}), so a val fraction of {val_fraction} "
                "cannot be drawn out of train; leave --val-fraction away."
            )
        of_train = ((group.name, origin) for group in groups if group.split == "train" for origin in group.origins())
        held_out = draw_fraction(of_train, val_fraction, seed)
        notes.append(f"val is {len(held_out):,} pictures drawn out of train (fraction {val_fraction:g}, seed {seed}).")
        present.add("val")
    elif "val" not in present:
        names = " and ".join(split for split in SPLIT_ORDER if split in present)
        notes.append(f"No validation split: only {names} is sharded (--val-fraction would draw one out of train).")
    return make_source(root, groups, tuple(split for split in SPLIT_ORDER if split in present), held_out, notes)


def make_source(
    root: str, groups: list[Group], splits: tuple[str, ...], held_out: set[bytes], notes: list[str]
) -> Source:
    """The table of all groups' pictures; `held_out` are origins that go from train to val."""
    names = sorted({group.name for group in groups})
    index_of = {name: index for index, name in enumerate(names)}
    builder = TableBuilder(root)
    for number, split in enumerate(splits):
        for group in groups:
            for origin in group.origins() if group.split == split or (split == "val" and held_out) else ():
                if split == ("val" if origin in held_out else group.split):
                    builder.add(number, index_of[group.name], origin)
    return Source(
        "folders",
        f"class folders in {root}: {len(names):,} classes, {', '.join(splits)}",
        tuple(class_name(text(name)) for name in names),
        splits,
        builder.finish(),
        tuple(notes),
    )


def draw_fraction(pictures: Iterable[tuple[bytes, bytes]], fraction: float, seed: int) -> set[bytes]:
    """The origins of round(fraction × all) pictures, as even over the classes as whole numbers allow.

    pictures: (class, origin).  Every class gets the whole part of its share; what is left goes to the largest
    remainders, equal ones in an order drawn from the seed.  A class of two or more pictures keeps one.  Drawing is by
    hash of seed and origin, so it depends neither on the order of the list nor on a random generator's version.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"The val fraction must lie between 0 and 1, but is {fraction}.")

    def draw(name: bytes) -> bytes:
        return hashlib.blake2b(b"%d/" % seed + name, digest_size=16).digest()

    by_class: dict[bytes, list[bytes]] = {}
    for name, origin in pictures:
        by_class.setdefault(name, []).append(origin)
    total = sum(map(len, by_class.values()))
    most = {name: max(len(origins) - 1, 1) for name, origins in by_class.items()}
    count = {name: min(int(len(origins) * fraction), most[name]) for name, origins in by_class.items()}
    missing = {name: len(origins) * fraction - count[name] for name, origins in by_class.items()}
    left = round(total * fraction) - sum(count.values())
    for name in sorted(by_class, key=lambda name: (-missing[name], draw(name)))[: max(left, 0)]:
        count[name] = min(count[name] + 1, most[name])
    held_out = {origin for name, origins in by_class.items() for origin in sorted(origins, key=draw)[: count[name]]}
    if not held_out:
        raise UsageError(
            f"A val fraction of {fraction} of {total:,} pictures is none; give a larger one, or leave it away."
        )
    return held_out
