"""ImageNet's validation and test images among others, known by their names: the split of folders that hold them, and
what their names say against the splits and the classes that a source gives them.

Subsets such as Imagenette draw their own train and val folders out of both of ImageNet's, so a few validation images
in a folder called train are meant to be there.  A class of train that is made of them, or the same image in train and
in val, is a mistake that would spoil every accuracy measured later.
"""

from __future__ import annotations

from collections import defaultdict

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.file_names import held_out_image, imagenet_index, split_of_name, validation_index
from alexnet_fast.tools.sources.foreign import text
from alexnet_fast.tools.sources.image_folders import ImageFolder
from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes
from alexnet_fast.tools.sources.splits import Assignment, Path, said
from alexnet_fast.tools.sources.table import Source

MANY = 100
"""Images in other classes than their names say that prove a split's labels to be shifted or numbered otherwise; fewer
may be somebody's own choice.
"""


def split_of_content(folder: ImageFolder) -> tuple[str, Path] | None:
    """val or test where every image is called as one of the challenge's, with the part of the path below the split's
    own name; None where other images are among them, or where the path names another split.
    """
    named = set(map(split_of_name, folder.names))
    split = named.pop()
    if named or split is None:
        return None
    path = folder.class_path
    for depth in range(len(path), 0, -1):
        what = said(path[depth - 1])
        if what and not what.rest:
            return (split, path[depth:]) if what.split == split else None
    return split, path


def check_folder(root: str, folder: ImageFolder, assigned: Assignment) -> None:
    """UsageError where half of a folder's images or more are called as those of another split of the challenge."""
    names = [text(name) for name in folder.names if split_of_name(name) not in (None, assigned.split)]
    if 2 * len(names) < max(1, len(folder.names)):
        return
    place = f"lies in the {assigned.split} split" if assigned.stated else "lies in no folder that states a split"
    split = split_of_name(names[0].encode()) or ""
    raise UsageError(
        f"{root}: {folder.where} {place}, but {len(names):,} of its {counted(len(folder.names), 'image')} are called "
        f"as images of the challenge's {split} split ({few(names)}). Move them to a folder of their own, or say what "
        "the folders are with --split NAME=PATH."
    )


def check_names(source: Source, chosen: bool) -> list[str]:
    """Compare what images' names say with the source; warnings.

    chosen: whether the user gave the splits or labels by an option, which no majority of names overrules.  UsageError
    where train and another split share an image of the challenge, where train consists of such images, and where many
    images and half of a split's or more are in another class than their names say.
    """
    table, seen = source.table, defaultdict[bytes, dict[str, str]](dict)
    labeled: dict[bytes, tuple[int, str]] = {}
    twice: list[str] = []
    moved: dict[tuple[str, str], list[str]] = defaultdict(list)
    known = dict.fromkeys(source.splits, 0)
    wrong: dict[str, list[str]] = {split: [] for split in source.splits}
    for number in range(len(table)):
        origin = table.origin_bytes(number)
        name = origin[max(origin.rfind(b"/"), origin.rfind(b"!")) + 1 :]
        split, wnid = source.splits[table.split[number]], source.classes[table.label[number]].name
        named, by_number = split_of_name(name), validation_index(name)
        index = imagenet_index(name) if by_number is None else by_number
        if named:
            image, label = held_out_image(name), int(table.label[number])
            seen[image].setdefault(split, table.origin(number))
            first, where = labeled.setdefault(image, (label, table.origin(number)))
            if first != label:
                twice.append(f"{where!r} and {table.origin(number)!r}")
        if named and named != split:
            moved[split, named].append(table.origin(number))
        if index >= 0 and wnid in classes_by_wnid():
            meant = imagenet_classes()[index].wnid
            known[split] += 1
            if meant != wnid:
                wrong[split].append(f"{table.origin(number)} is {wnid} here, but {meant} by its name")
    check_shared(source, seen)
    if not chosen:
        check_train(source, moved)
    return [
        *map(moved_warning, moved, moved.values()),
        *([f"Images of the challenge in two classes, by their names: {few_lines(twice)}."] if twice else []),
        *(check_classes(table.root, split, wrong[split], known[split]) for split in source.splits if wrong[split]),
    ]


def check_classes(root: str, split: str, wrong: list[str], known: int) -> str:
    """A warning of images whose names say another class; UsageError where these are many, and half of the split's or
    more.

    wrong: what is said of each.  known: images of the split whose names say one of ImageNet's classes.
    """
    images = (
        f"{len(wrong):,} of {counted(known, 'image')} of {split} are in another class than their names or the "
        f"challenge's validation labels say ({few_lines(wrong)})"
    )
    if len(wrong) >= MANY and 2 * len(wrong) >= known:
        raise UsageError(f"{root}: {images}. Correct the labels; if they are meant, rename the images.")
    return f"{images}; the source's labels are kept."


def check_shared(source: Source, seen: dict[bytes, dict[str, str]]) -> None:
    """UsageError where an image of the challenge is in train and in another split; seen: image -> split -> origin."""
    shared = [list(places.values()) for places in seen.values() if len(places) > 1 and "train" in places]
    if shared:
        raise UsageError(
            f"{source.table.root}: train shares {counted(len(shared), 'image')} of the challenge with another split, "
            f"by their names ({few_lines([' and '.join(map(repr, places)) for places in shared])}), so a model would "
            "be tested on what it was trained on. Remove them from one of the splits."
        )


def check_train(source: Source, moved: dict[tuple[str, str], list[str]]) -> None:
    """UsageError where half of the train split or more are called as the challenge's validation or test images."""
    if "train" not in source.splits:
        return
    size = int((source.table.split == source.splits.index("train")).sum())
    for (split, named), origins in moved.items():
        if split == "train" and 2 * len(origins) >= size:
            raise UsageError(
                f"{source.table.root}: {len(origins):,} of the {counted(size, 'image')} of train are called as images "
                f"of the challenge's {named} split ({few(origins)}). Say what they are with --split NAME=PATH."
            )


def moved_warning(key: tuple[str, str], origins: list[str]) -> str:
    split, named = key
    effect = " Accuracy on the challenge's own validation set would be too high." if split == "train" else ""
    images = counted(len(origins), f"image of {split} is called as an image", f"images of {split} are called as images")
    return f"{images} of the challenge's {named} split ({few(origins)}); kept in {split}.{effect}"


def few_lines(lines: list[str]) -> str:
    """The first three, and how many more."""
    more = f"; and {len(lines) - 3:,} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more
