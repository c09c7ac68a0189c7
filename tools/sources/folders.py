"""Images in class folders, on the disk and inside tars: `train/<class>/…`, `<class>/…`, `<class>.tar`, and flat folders
whose labels stand in the file names or in a table.

A class is called by its folder's path from the split's folder on, whatever lies beside it: `animals/dog/1.jpg` is of
the class `animals/dog`.  Folders called `images` do not count, and a WordNet id in the path is the class by itself.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.classes import ClassList, LabelCounts, make_classes
from alexnet_fast.tools.sources.file_names import BY_NUMBER, label_of_name, split_of_name
from alexnet_fast.tools.sources.foreign import text
from alexnet_fast.tools.sources.held_out import check_folder, split_of_content
from alexnet_fast.tools.sources.image_folders import Accounts, ImageFolder
from alexnet_fast.tools.sources.imagenet import classes_by_wnid
from alexnet_fast.tools.sources.label_files import LabelFiles, Row
from alexnet_fast.tools.sources.sample_labels import Label
from alexnet_fast.tools.sources.splits import Assignment, Path, SplitFinder, explicit_splits, is_plain_folder, said
from alexnet_fast.tools.sources.table import SPLIT_ORDER, Source, TableBuilder

_WNID = re.compile(rb"n\d{8}")

_ONE_OF_MANY = re.compile(rb"(.*[-_.]|)(?:(?<=[-_.])\d+|0\d+)(?:-of-\d+)?")
"""The name of a tar that is one of many: `shard-12`, `00007`; group 1 is what all of them share."""

_TARS_OR_CLASSES = (
    "If each tar is a class: --source class-tars. Else give tars with a .cls, or a JSON with a label, for each image, "
    "or a table of labels with --labels FILE."
)


def class_of_path(path: Path) -> str | None:
    """The class that a path from the split's folder on says; None where it says none."""
    parts = [part for part in path if part and not is_plain_folder(part)]
    wnids = [part for part in parts if _WNID.fullmatch(part)]
    if wnids:
        return text(wnids[-1])
    doubled = [part for number, part in enumerate(parts) if number and part == parts[number - 1]]
    if doubled:  # as archives unpack: cats/cats/1.jpg
        parts = [part for number, part in enumerate(parts) if not number or part != parts[number - 1]]
    return text(b"/".join(parts)) if parts else None


@dataclass
class Group:
    """Images of one folder and one class, or without a class."""

    split: str
    label: Label
    folder: ImageFolder
    places: Sequence[int]
    """Of its images, in the folder's list."""


@dataclass
class Grouping:
    """How the images of a source are labeled."""

    root: str
    tables: LabelFiles
    accounts: Accounts
    groups: list[Group] = field(default_factory=list)
    origins: Counter[str] = field(default_factory=Counter)
    """Where labels come from -> images."""
    unread: list[str] = field(default_factory=list)
    """Folders whose names are taken for no class."""

    def add(self, folder: ImageFolder, assigned: Assignment) -> None:
        """Label a folder's images: by a table, by the folder, or by their own names."""
        label = class_of_path(assigned.class_path)
        if assigned.unread:
            self.unread.append(folder.where)
        by_label: dict[tuple[str, Label], list[int]] = defaultdict(list)
        rows = self.rows_of(folder)
        if label is not None and rows is None:
            self.groups.append(Group(assigned.split, Label(None, label), folder, range(len(folder.names))))
            self.origins["folder names"] += len(folder.names)
            return
        unlisted = 0
        for place, name in enumerate(folder.names):
            row = rows[place] if rows else None
            if row is not None:
                self.origins["a table of labels"] += 1
                by_label[row.split or assigned.split, row.label].append(place)
            elif rows is not None:
                unlisted += 1
            else:
                said_by_name = label_of_name(name)
                if said_by_name:
                    self.origins[said_by_name.origin] += 1
                wnid = said_by_name.wnid if said_by_name else None
                by_label[assigned.split, Label(None, wnid)].append(place)
        self.accounts.add(folder.where, unlisted, "images that the table of labels does not have")
        for (split, of), places in by_label.items():
            if of == Label():
                self.accounts.add(folder.where, len(places), no_label(folder, assigned, rows is not None))
                continue
            self.groups.append(Group(split, of, folder, places))

    def rows_of(self, folder: ImageFolder) -> list[Row | None] | None:
        """What the tables say of a folder's images; None where they say nothing."""
        if not self.tables:
            return None
        parts = tuple(part.decode("utf-8", "surrogateescape") for part in folder.real)
        rows = [self.tables.row((*parts, name.decode("utf-8", "surrogateescape"))) for name in folder.names]
        return rows if any(rows) else None


def no_label(folder: ImageFolder, assigned: Assignment, listed: bool) -> str:
    if listed:
        return "images without a label in the table"
    if any(map(split_of_name, folder.names)):
        return "images without a label, whose labels nobody has"
    return "images in no class folder, without a label"


def assign(root: str, folders: list[ImageFolder], given: Sequence[str]) -> list[Assignment | None]:
    """The split of every folder, and the part of its path that names the class."""
    if given:
        found = explicit_splits(root, given, [folder.real for folder in folders])
        chosen = [found[folder.real] for folder in folders]
        return [
            one and Assignment(one[0], folder.class_path[one[1] :]) for folder, one in zip(folders, chosen, strict=True)
        ]
    by_content = [split_of_content(folder) for folder in folders]
    rest = [folder for folder, split in zip(folders, by_content, strict=True) if not split]
    by_name = SplitFinder(root, [folder.class_path for folder in rest]).find()
    for folder in rest:
        if one := by_name[folder.class_path]:
            check_folder(root, folder, one)
    classes = {class_of_path(one.class_path) for one in by_name.values() if one}
    assigned = []
    for folder, content in zip(folders, by_content, strict=True):
        if content is None:
            assigned.append(by_name[folder.class_path])
            continue
        split, below = content
        wnids = tuple(part for part in folder.class_path if _WNID.fullmatch(part))
        named = class_of_path(below)
        if named in classes:
            assigned.append(Assignment(split, below))
        else:
            assigned.append(Assignment(split, wnids, unread=named is not None and not wnids))
    return assigned


def check_mixed(root: str, groups: Iterable[Group], assigned: Iterable[Assignment | None]) -> None:
    """UsageError where a folder of one class holds folders of others, so that nobody knows what its own images are."""
    classes = sorted({class_of_path(one.class_path) or "" for one in assigned if one})
    known = set(classes)
    for name in classes:
        above = [name[:cut] for cut in range(len(name)) if name[cut] == "/" and name[:cut] in known]
        if above:
            raise UsageError(
                f"{root}: the folder {above[0]!r} holds images itself and in folders such as {name!r}: either it is "
                "the class, or these are classes and its own images lie beside them. Move its own images away or into "
                "a folder of their own, move the folders' images up, or give every image's class with --labels FILE."
            )


def check_tar_classes(
    root: str,
    folders: list[ImageFolder],
    assigned: Iterable[Assignment | None],
    captioned: Iterable[int],
) -> None:
    """UsageError where a class would be called as a tar that is one of many of a set, or that holds captions."""
    texts = set(captioned)
    kinds: dict[tuple[Path, bytes], list[ImageFolder]] = defaultdict(list)
    for folder, one in zip(folders, assigned, strict=True):
        own = folder.tar_depth >= 0 and len(folder.path) == folder.tar_depth + 1
        label = class_of_path(one.class_path) if own and one else None
        if label is None or _WNID.fullmatch(label.encode()) or all(map(label_of_name, folder.names)):
            continue
        if folder.container in texts:
            raise UsageError(
                f"{root}: the images in {folder.where} have texts or JSON beside them, which say no labels (captions, "
                f"perhaps). {_TARS_OR_CLASSES}"
            )
        if matched := _ONE_OF_MANY.fullmatch(folder.path[-1]):
            kinds[folder.path[:-1], matched[1]].append(folder)
    many = next((alike for alike in kinds.values() if len(alike) > 1), None)
    if many:
        raise UsageError(
            f"{root}: {few([folder.where for folder in many])} are called like the tars of one set, and no labels lie "
            f"beside their images. {_TARS_OR_CLASSES}"
        )


def check_twice(root: str, groups: list[Group]) -> None:
    """UsageError where a class has the same image from two tars, or from a tar and a folder: an unpacked copy."""
    where: dict[tuple[str, Label], set[int]] = defaultdict(set)
    for group in groups:
        where[group.split, group.label].add(group.folder.container)
    shared = {key for key, containers in where.items() if len(containers) > 1}
    seen: dict[tuple[str, Label, bytes, int], ImageFolder] = {}
    for group in groups:
        if (group.split, group.label) not in shared:
            continue
        for place in group.places:
            key = (group.split, group.label, group.folder.names[place], group.folder.sizes[place])
            other = seen.setdefault(key, group.folder)
            if other.container != group.folder.container:
                raise UsageError(
                    f"{root}: {other.where} and {group.folder.where} both hold {text(key[2])}, of the same size, in "
                    "one class. Move one of them out of the source, or choose with --split NAME=PATH."
                )


def apart_from_wnids(folders: list[ImageFolder]) -> set[int]:
    """Places of tars that lie beside class tars called by wnids, and are called otherwise: backups and the like."""
    by_parent: dict[Path, list[int]] = defaultdict(list)
    for number, folder in enumerate(folders):
        if folder.tar_depth >= 0 and len(folder.path) == folder.tar_depth + 1 and said(folder.path[-1]) is None:
            by_parent[folder.path[:-1]].append(number)
    return {
        number
        for numbers in by_parent.values()
        if any(_WNID.fullmatch(folders[number].path[-1]) for number in numbers)
        for number in numbers
        if not _WNID.fullmatch(folders[number].path[-1])
    }


def find_class_folders(
    root: str,
    folders: list[ImageFolder],
    containers: Sequence[str],
    packed: dict[int, str],
    accounts: Accounts,
    *,
    splits: Sequence[str] = (),
    tables: LabelFiles,
    class_list: ClassList | None = None,
    empty_folders: Iterable[bytes] = (),
    captioned: Iterable[int] = (),
    tars_are_classes: bool = False,
    seen: str = "",
) -> Source:
    """The source that these folders are.  Without split folders every image is in `train`.

    empty_folders: folders without an image anywhere below.  captioned: numbers of tars whose images have texts beside
    them.  tars_are_classes: take tars for classes whatever they are called.  seen: what else is there, for the refusal
    of a source without images.  Raises UsageError where nothing is labeled, or where two readings remain.
    """
    if not splits:
        for number in apart_from_wnids(folders):
            apart = folders[number]
            accounts.add(
                apart.where, len(apart.names), "images of a tar that is not called by a WordNet id as those beside it"
            )
        skip = apart_from_wnids(folders)
        folders = [folder for number, folder in enumerate(folders) if number not in skip]
    assigned = assign(root, folders, splits)
    if not splits and not tables and not tars_are_classes:
        check_tar_classes(root, folders, assigned, captioned)
    grouping = Grouping(root, tables, accounts)
    for folder, one in zip(folders, assigned, strict=True):
        if one is None:
            accounts.add(folder.where, len(folder.names), "images in no split and no class folder")
        else:
            grouping.add(folder, one)
    if not tables:
        check_mixed(root, grouping.groups, assigned)
    groups = without_other_classes(grouping, class_list)
    if not groups:
        raise UsageError(nothing_found(root, folders, tables, seen))
    check_twice(root, groups)
    return build(root, containers, packed, grouping, groups, class_list, list(empty_folders))


def build(
    root: str,
    containers: Sequence[str],
    packed: dict[int, str],
    grouping: Grouping,
    groups: list[Group],
    class_list: ClassList | None,
    empty_folders: list[bytes],
) -> Source:
    counts = LabelCounts()
    numbers = [counts.add(group.label, group.split, len(group.places)) for group in groups]
    absent = {text(folder.rpartition(b"/")[2]) for folder in empty_folders}
    if class_list is None and all(group.split != "train" for group in groups) and grouping.origins[BY_NUMBER]:
        from alexnet_fast.tools.sources.classes import IMAGENET, read_class_list

        class_list = read_class_list(IMAGENET)
    made = make_classes(root, counts, class_list, absent=lambda name: name in absent)
    present = {group.split for group in groups}
    splits = tuple(split for split in SPLIT_ORDER if split in present)
    order = sorted(
        range(len(groups)),
        key=lambda number: (
            splits.index(groups[number].split),
            int(made.index[numbers[number]]),
            groups[number].folder.container,
            groups[number].folder.prefix,
        ),
    )
    builder = TableBuilder(root, containers)
    for number in order:
        add_group(builder, groups[number], splits.index(groups[number].split), int(made.index[numbers[number]]))
    table = builder.finish()
    table.packed = packed
    notes = list(made.notes)
    if empty_folders:
        names = sorted(map(text, empty_folders))
        notes.append(f"No classes: {counted(len(names), 'folder')} without an image ({few(names)}).")
    warnings = [*made.warnings, *grouping.tables.warnings()]
    if grouping.unread:
        warnings.append(
            f"The names of {few(grouping.unread)} are taken for no classes: the labels are the challenge's, by the "
            "images' names. If the folders are the classes: --split NAME=PATH."
        )
    above = {entry.name.partition("/")[0] if "/" in entry.name else "" for entry in made.classes}
    if class_list is None and len(above) == 1 and above != {""}:
        notes.append(
            f"The name of every class begins with {min(above)}/: give that folder as SOURCE for shorter names."
        )
    known = sum(entry.name in classes_by_wnid() for entry in made.classes)
    if class_list is None and 1 < known < 1000 and known == len(made.classes):
        notes.append(f"{known:,} of ImageNet's 1,000 classes; --classes imagenet keeps the indices of the 1,000.")
    return Source(
        "folders",
        f"class folders in {root}",
        made.classes,
        splits,
        table,
        tuple(notes),
        warnings=tuple(warnings),
        label_source=", ".join(origin for origin, _ in grouping.origins.most_common()),
    )


def add_group(builder: TableBuilder, group: Group, split: int, label: int) -> None:
    folder = group.folder
    for place in group.places:
        name = folder.prefix + folder.names[place]
        if folder.container < 0:
            builder.add(split, label, name, folder.sizes[place])
        else:
            builder.add_member(split, label, folder.container, name, folder.offsets[place], folder.sizes[place])


def without_other_classes(grouping: Grouping, class_list: ClassList | None) -> list[Group]:
    """The groups, without validation images of classes that train does not have.

    A part of ImageNet may be trained with the whole validation folder, whose labels are in its file names.
    """
    in_train = {group.label for group in grouping.groups if group.split == "train"}
    if not in_train or class_list is not None:
        return grouping.groups
    kept, dropped = [], Counter[str]()
    for group in grouping.groups:
        by_name = group.split != "train" and label_of_name(group.folder.names[group.places[0]]) is not None
        if group.label not in in_train and by_name and class_of_path(group.folder.path) != group.label.name:
            dropped[group.folder.where] += len(group.places)
        else:
            kept.append(group)
    for where, count in dropped.items():
        grouping.accounts.add(where, count, "images of classes that train does not have, by their file names")
    return kept


def nothing_found(root: str, folders: list[ImageFolder], tables: LabelFiles, seen: str) -> str:
    """What was looked for and what was seen, where no image has a class."""
    unfit = tables.warnings()
    if unfit:
        return (
            f"{root}: no image has a label. {' '.join(unfit)} Give a table with the images' paths relative to SOURCE."
        )
    loose = sum(len(folder.names) for folder in folders)
    what = f"{counted(loose, 'image')} in no class folder" if loose else seen or "no files"
    hint = "; a table with their labels is given with --labels FILE" if loose else ""
    return (
        f"{root}: no images in class folders. Looked for train/<class>/…, val/<class>/… and <class>/…, and for tars of "
        f"these; found {what.rstrip('.')}. Give the folder that holds the classes' folders{hint}."
    )
