"""From labels to classes: their order, what they are called, and what contradicts itself.

- Names are sorted; where all of them are numbers, by number.
- Labels that are numbers are the classes' indices themselves.
- A class list (`--classes`) decides the indices by itself: `imagenet` for the 1,000 classes, or a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes
from alexnet_fast.tools.sources.sample_labels import Label
from alexnet_fast.tools.sources.splits import said
from alexnet_fast.tools.sources.table import SPLIT_ORDER, ClassName
from alexnet_fast.tools.storage.filesystem import absolute, is_url, read_file

IMAGENET = "imagenet"
"""What `--classes` calls ImageNet's own list."""


def class_name(name: str) -> ClassName:
    """A class by its name, with ImageNet's words where the name is one of its wnids."""
    known = classes_by_wnid().get(name)
    return ClassName(name, known.name if known else name)


class ClassList:
    """The classes that the user gave, in order."""

    def __init__(self, origin: str, classes: Sequence[ClassName]) -> None:
        self.origin = origin
        self.classes = tuple(classes)
        self._index = {entry.name: index for index, entry in enumerate(self.classes)}
        counts = Counter(entry.words for entry in self.classes)
        self._by_words = {entry.words: index for index, entry in enumerate(self.classes) if counts[entry.words] == 1}

    def index(self, label: Label) -> int | None:
        """A label's place in the list: by name, by ImageNet's words, or by number; None where it has none."""
        if label.name is not None:
            found = self._index.get(label.name, self._by_words.get(label.name))
            if found is None and label.number is None and label.name.isascii() and label.name.isdigit():
                return self._by_number(int(label.name))
            if found is not None and label.number not in (None, found):
                return None
            return found if found is not None or label.number is None else self._by_number(label.number)
        return None if label.number is None else self._by_number(label.number)

    def _by_number(self, number: int) -> int | None:
        return number if number < len(self.classes) else None


def read_class_list(given: str | None) -> ClassList | None:
    """`imagenet`, or a file with a class's name in a line; a tab may part it from words for people.

    UsageError where a name comes twice, or where there is none.
    """
    if given is None:
        return None
    if given == IMAGENET:
        return ClassList(given, [ClassName(entry.wnid, entry.name) for entry in imagenet_classes()])
    lines = read_file(given if is_url(given) else absolute(given)).decode("utf-8-sig", "backslashreplace").splitlines()
    rows = [line.strip().partition("\t") for line in lines if line.strip()]
    classes = [ClassName(name, words) if words else class_name(name) for name, _, words in rows]
    twice = [name for name, count in Counter(entry.name for entry in classes).items() if count > 1]
    if twice or not classes:
        problem = f"names the class {few(twice)} twice" if twice else "names no class"
        raise UsageError(f"--classes {given}: {problem}. Give a file with the name of each class in a line, in order.")
    return ClassList(given, classes)


@dataclass
class Classes:
    """The classes of a source, and the index of every label that it has."""

    classes: tuple[ClassName, ...]
    index: npt.NDArray[np.int32]
    """As the labels were given."""
    notes: list[str]
    warnings: list[str]


class LabelCounts:
    """The distinct labels of a source with the number of images that each split has of them."""

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self.splits: list[Counter[str]] = []
        self._number: dict[Label, int] = {}

    def add(self, label: Label, split: str, count: int = 1) -> int:
        """The label's place in `labels`."""
        number = self._number.setdefault(label, len(self.labels))
        if number == len(self.labels):
            self.labels.append(label)
            self.splits.append(Counter())
        self.splits[number][split] += count
        return number


def make_classes(
    root: str,
    counts: LabelCounts,
    class_list: ClassList | None,
    *,
    absent: Callable[[str], bool] = lambda name: False,
    names: Sequence[str] = (),
) -> Classes:
    """Order the labels.  UsageError where they contradict each other, or where train lacks a class of another split.

    absent: whether a class has a folder in train, but no image.  names: what the classes 0, 1, … are called, where
    the source says it.
    """
    if class_list is not None:
        return from_list(root, counts, class_list)
    if any(label.number is not None for label in counts.labels):
        made = from_numbers(root, counts, names)
    else:
        made = from_names(counts)
    check_splits(root, counts, made, absent)
    present = len(set(made.index.tolist()))
    if present < 2:
        raise UsageError(
            f"{root}: all images are of one class, {made.classes[int(made.index[0])].name!r}; there is nothing to tell "
            "apart. Give the folder that holds the classes' folders, or, where this is one class of a known list, the "
            "list with --classes."
        )
    made.warnings += class_warnings(counts, made)
    return made


def from_list(root: str, counts: LabelCounts, class_list: ClassList) -> Classes:
    indices = [class_list.index(label) for label in counts.labels]
    unknown = [shown(label) for label, index in zip(counts.labels, indices, strict=True) if index is None]
    if unknown:
        raise UsageError(
            f"{root}: has the class {few(sorted(unknown))}, which is not among the "
            f"{len(class_list.classes):,} of --classes {class_list.origin}. Give a list that has all of them."
        )
    index = np.array(indices, np.int32)
    note = (
        f"The classes and their indices are those of --classes {class_list.origin}: "
        f"{len(set(index.tolist())):,} of {counted(len(class_list.classes), 'class', 'classes')} have images."
    )
    return Classes(class_list.classes, index, [note], [])


def from_names(counts: LabelCounts) -> Classes:
    """Names, sorted; by number where all are numbers."""
    names = {label.name or "" for label in counts.labels}
    numeric = all(name.isascii() and name.isdigit() for name in names)
    order = sorted(names, key=lambda name: (int(name), name)) if numeric else sorted(names)
    place = {name: index for index, name in enumerate(order)}
    index = np.array([place[label.name or ""] for label in counts.labels], np.int32)
    notes, warnings = [], []
    if numeric:
        notes.append("The classes' names are numbers: they are sorted by number.")
        shifted = next((name for number, name in enumerate(order) if int(name) != number), None)
        if shifted is not None:
            warnings.append(
                f"The classes' names are numbers, but not 0 to {len(order) - 1:,}: class {shifted!r} has the index "
                f"{place[shifted]:,}. --classes FILE (or --classes {IMAGENET}) keeps a list's indices."
            )
    return Classes(tuple(map(class_name, order)), index, notes, warnings)


def from_numbers(root: str, counts: LabelCounts, names: Sequence[str] = ()) -> Classes:
    """Numbers, which are the indices; names belong to numbers where labels say both."""
    name_of: dict[int, str] = dict(enumerate(names))
    number_of: dict[str, int] = {}
    for label in counts.labels:
        if label.number is None or label.name is None:
            continue
        other = name_of.setdefault(label.number, label.name)
        again = number_of.setdefault(label.name, label.number)
        if other != label.name or again != label.number:
            raise UsageError(
                f"{root}: the labels contradict each other: {label.number} is {other!r} and {label.name!r}, or "
                f"{label.name!r} is {again} and {label.number}. Number the classes anew, or give --labels."
            )
    numbers = [label.number if label.number is not None else number_of.get(label.name or "") for label in counts.labels]
    if None in numbers:
        unknown = [label.name or "" for label, number in zip(counts.labels, numbers, strict=True) if number is None]
        known = [str(label.number) for label in counts.labels if label.number is not None]
        where = {
            "numbers": splits_with(counts, lambda label: label.number is not None),
            "names": splits_with(counts, lambda label: label.number is None),
        }
        raise UsageError(
            f"{root}: some labels are numbers ({few(known)}, in {where['numbers']}), others are names "
            f"({few(sorted(unknown))}, in {where['names']}): which belong together is not known. Give the names in the "
            "order of their numbers with --classes FILE, or use one kind of label in all splits."
        )
    index = np.array(numbers, np.int32)
    size = max(int(index.max()) + 1, len(names))
    empty = sorted(set(range(size)) - set(index.tolist()))
    warnings = []
    if empty:
        hint = " Are the labels counted from 1?" if empty == [0] else ""
        warnings.append(f"No image has the label {few_numbers(empty)} of 0 to {size - 1:,}.{hint}")
    classes = tuple(class_name(name_of.get(number, str(number))) for number in range(size))
    return Classes(classes, index, [], warnings)


def splits_with(counts: LabelCounts, wanted: Callable[[Label], bool]) -> str:
    splits = {split for label, of in zip(counts.labels, counts.splits, strict=True) if wanted(label) for split in of}
    return " and ".join(split for split in SPLIT_ORDER if split in splits)


def few_numbers(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 3:,} more" if len(numbers) > 3 else ""
    return ", ".join(map(str, numbers[:3])) + more


def shown(label: Label) -> str:
    return label.name if label.name is not None else str(label.number)


def check_splits(root: str, counts: LabelCounts, made: Classes, absent: Callable[[str], bool]) -> None:
    """UsageError where val or test has a class that train has not."""
    present: dict[str, set[int]] = {}
    for number, splits in enumerate(counts.splits):
        for split in splits:
            present.setdefault(split, set()).add(int(made.index[number]))
    if "train" not in present:
        return
    for split in [split for split in SPLIT_ORDER[1:] if split in present]:
        unknown = [made.classes[index].name for index in sorted(present[split] - present["train"])]
        empty = [name for name in unknown if absent(name)]
        if empty:
            raise UsageError(
                f"{root}: no image in the class folder {few(empty)} of train, but there are some of it in {split}. "
                "Bring its images, or remove the class from every split."
            )
        if unknown:
            raise UsageError(
                f"{root}: the {split} split has the class {few(unknown)}, which train has not "
                f"({counted(len(unknown), 'class', 'classes')}). The same classes must be called, and numbered, alike "
                "in every split; a list that all splits share is given with --classes."
            )


def class_warnings(counts: LabelCounts, made: Classes) -> list[str]:
    warnings = []
    splitlike = [entry.name for entry in made.classes if said(entry.name.rpartition("/")[2].encode())]
    if splitlike:
        warnings.append(f"The class {few(splitlike)} is called as a split is. If it is one: --split NAME=PATH.")
    present: dict[str, set[int]] = {}
    for number, splits in enumerate(counts.splits):
        for split in splits:
            present.setdefault(split, set()).add(int(made.index[number]))
    for split in ("val", "test"):
        lacking = sorted(present.get("train", set()) - present.get(split, set())) if split in present else []
        if lacking:
            names = few([made.classes[index].name for index in lacking])
            classes = counted(len(lacking), "class", "classes")
            warnings.append(f"The {split} split has no image of {classes} that train has ({names}).")
    return warnings
