"""Class folders: `train/<class>/…` and `val/<class>/…`, or `<class>/…` alone; ILSVRC-2012's flat `val/*.JPEG` too."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes, validation_labels
from alexnet_fast.tools.sources.table import SPLIT_ORDER, ClassName, Source, TableBuilder
from alexnet_fast.tools.sources.tree import Tree, read_tree, text

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

VALIDATION_NAME = re.compile(rb"ILSVRC2012_val_(\d{8})\.JPEG\Z")


def class_name(name: str) -> ClassName:
    """A class by its folder's name, with ImageNet's words where the name is one of its wnids."""
    known = classes_by_wnid().get(name)
    return ClassName(name, known.name if known else name)


@dataclass(frozen=True)
class Group:
    """Images of one folder and one class."""

    split: str
    name: bytes
    """The class."""
    folder: bytes
    """Relative to the root."""
    files: list[bytes]
    """Sorted names."""
    sizes: Sequence[int]
    """Their bytes."""


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
    others = [name for name in tree.first_level() if name + b"/" not in found.values()]
    are_classes = not any(map(tree.first_level, found.values())) and any(
        name in tree.images or tree.below(name + b"/") for name in others
    )
    if not found or are_classes:
        return {"train": b""}
    return {split: found[split] for split in SPLIT_ORDER if split in found}


def class_of_folder(folders: set[bytes]) -> dict[bytes, bytes]:
    """Folder with images -> its class: the topmost folder on its path that holds images itself.

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
    """ILSVRC-2012's validation images as they come out of their tar, grouped by the labels built in.

    Only those of `classes` (wnids), where there are any: a part of ImageNet may be trained with the whole val folder.
    """
    wnids = [entry.wnid.encode() for entry in imagenet_classes()]
    wanted = set(classes) or set(wnids)
    by_class: dict[bytes, tuple[list[bytes], array[int]]] = {}
    folder = prefix[:-1]
    for file, size in zip(tree.images.get(folder, []), tree.sizes.get(folder, array("q")), strict=True):
        matched = VALIDATION_NAME.match(file)
        if matched and 1 <= int(matched[1]) <= len(validation_labels()):
            wnid = wnids[validation_labels()[int(matched[1]) - 1]]
            if wnid in wanted:
                files, sizes = by_class.setdefault(wnid, ([], array("q")))
                files.append(file)
                sizes.append(size)
    return [Group("val", wnid, folder, *listed) for wnid, listed in by_class.items()]


def group_images(tree: Tree, splits: dict[str, bytes]) -> list[Group]:
    """All images that have a class, by split, class and folder, sorted."""
    listed = {split: tree.below(prefix) for split, prefix in splits.items()}
    class_of = class_of_folder({folder[len(splits[split]) :] for split in listed for folder in listed[split]})
    groups = [
        Group(split, class_of[folder[len(splits[split]) :]], folder, files, tree.sizes[folder])
        for split, folders in listed.items()
        for folder, files in folders.items()
    ]
    if "val" in splits and not listed["val"]:
        groups += flat_validation(tree, splits["val"], (group.name for group in groups))
    return sorted(groups, key=lambda group: (SPLIT_ORDER.index(group.split), group.name, group.folder))


def check_groups(root: str, tree: Tree, splits: dict[str, bytes], groups: list[Group]) -> None:
    """UsageError: there is nothing to shard, or a split has a class that train has not, or only an empty folder of."""
    if not groups:
        loose = sum(map(len, tree.images.values()))
        seen = f"{counted(loose, 'image')} in no class folder" if loose else " ".join(tree.notes()) or "no files"
        raise UsageError(
            f"{root}: no images in class folders. Looked for train/<class>/…, val/<class>/… and <class>/…; "
            f"found {seen.rstrip('.')}. Give the folder that holds these."
        )
    in_train = {group.name for group in groups if group.split == "train"}
    for split in splits:
        unknown = sorted({group.name for group in groups if group.split == split and group.name not in in_train})
        empty = [text(name) for name in unknown if splits.get("train", b"") + name in tree.folders]
        if in_train and empty:
            raise UsageError(
                f"{root}: no image in the class folder {few(empty)} of train, but there are some of it in {split}. "
                "Bring its images, or remove the class from every split."
            )
        if in_train and unknown:
            raise UsageError(
                f"{root}: the {split} split has the class {few([text(name) for name in unknown])}, which train "
                "has not. The same classes must have the same folder names in every split."
            )


def empty_folders(tree: Tree, splits: dict[str, bytes]) -> list[str]:
    """Folders where classes are expected, without a image anywhere below."""
    filled = {
        folder[: len(prefix)] + folder[len(prefix) :].split(b"/")[0]
        for prefix in splits.values()
        for folder in tree.below(prefix)
    }
    return [
        text(prefix + name)
        for prefix in splits.values()
        for name in tree.first_level(prefix)
        if prefix + name not in filled
    ]


def folder_notes(tree: Tree, splits: dict[str, bytes], groups: list[Group]) -> list[str]:
    """What lies in the source and is not sharded, so that every image is accounted for."""
    notes = []
    used: dict[bytes, int] = {}
    for group in groups:
        used[group.folder] = used.get(group.folder, 0) + len(group.files)
    for folder in sorted({b"", *(prefix[:-1] for prefix in splits.values())}):
        loose = len(tree.images.get(folder, [])) - used.get(folder, 0)
        if loose:
            place = f"{text(folder)}/" if folder else "the source itself"
            notes.append(f"Not used: {counted(loose, 'image')} in {place}, in no class folder.")
    for name in tree.first_level() if b"" not in splits.values() else []:
        count = sum(map(len, [*tree.below(name + b"/").values(), tree.images.get(name, [])]))
        if name + b"/" not in splits.values() and count:
            notes.append(f"Not used: {counted(count, 'image')} in {text(name)}/, which is no split.")
    empty = empty_folders(tree, splits)
    if empty:
        notes.append(f"No classes: {counted(len(empty), 'folder')} without a image ({few(empty)}).")
    return notes + tree.notes()


def find_class_folders(root: str, exclude: Path | str | None = None) -> Source:
    """Class folders under `root`, an absolute path or a URL.  Without split folders every image is in `train`."""
    tree = read_tree(root, exclude)
    folders = split_folders(root, tree)
    groups = group_images(tree, folders)
    check_groups(root, tree, folders, groups)
    present = {group.split for group in groups}
    splits = tuple(split for split in SPLIT_ORDER if split in present)
    names = sorted({group.name for group in groups})
    index_of = {name: index for index, name in enumerate(names)}
    builder = TableBuilder(root)
    for group in groups:
        for file, size in zip(group.files, group.sizes, strict=True):
            builder.add(splits.index(group.split), index_of[group.name], group.folder + b"/" + file, size)
    return Source(
        "folders",
        f"class folders in {root}",
        tuple(class_name(text(name)) for name in names),
        splits,
        builder.finish(),
        tuple(folder_notes(tree, folders, groups)),
    )
