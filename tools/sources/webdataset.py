"""Other people's WebDataset tars: samples of a image (jpg, png, webp, …) and a label (cls, or json with a label)."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sharding.tar_writer import MAX_LABEL
from alexnet_fast.tools.sources.folders import SPLIT_NAMES, VALIDATION_NAME
from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes, validation_labels
from alexnet_fast.tools.sources.table import (
    SPLIT_ORDER,
    ClassName,
    ImageTable,
    Location,
    Source,
    TableBuilder,
    read_bytes,
)
from alexnet_fast.tools.sources.tar_index import NOWHERE, Member, scan_tar
from alexnet_fast.tools.sources.tree import is_image, text
from alexnet_fast.tools.storage.filesystem import join, list_folder
from alexnet_fast.tools.storage.output import WORK

LABEL_FIELDS = ("label", "cls", "class_id", "class", "class_name")
"""Where a sample's json may say its class; the first that is there counts."""

_WNID_STEM = re.compile(rb"(n\d{8})_")


def tars_of(root: str, names: Mapping[str, bool]) -> dict[str, list[str]]:
    """Split -> its tars relative to the root, sorted: those in the folder, or in the folders in it.

    Shards that this program made of the same source lie in such a folder too, and are none of the source's.
    The split is the last of the words train, val, validation, test and the like in a tar's path; all are train where no
    tar's path has one.
    """
    tars = sorted(name for name, folder in names.items() if not folder and name.endswith(".tar"))
    if not tars:
        folders = [name for name, folder in names.items() if folder and not name.startswith(".")]
        below = {folder: list_folder(join(root, folder)) for folder in folders}
        tars = sorted(
            f"{folder}/{name}"
            for folder, inside in below.items()
            if not {MANIFEST, WORK} & inside.keys()
            for name in inside
            if name.endswith(".tar")
        )
    by_split: dict[str, list[str]] = {}
    for tar in tars:
        by_split.setdefault(split_of(tar), []).append(tar)
    if set(by_split) > {""}:
        named = next(tars[0] for split, tars in by_split.items() if split)
        raise UsageError(
            f"{root}: the tar {few(by_split[''])} names no split, but {named!r} does. Put train, val or test into the "
            "names of all tars, or of none."
        )
    if "" in by_split:
        return {"train": tars}
    return {split: by_split[split] for split in SPLIT_ORDER if split in by_split}


def split_of(tar: str) -> str:
    """The split that a tar's path names; nothing where it names none."""
    words = [SPLIT_NAMES.get(word.lower().encode()) for word in re.split("[^A-Za-z]+", tar)]
    return next((word for word in reversed(words) if word), "")


def is_webdataset(root: str, names: Mapping[str, bool]) -> bool:
    """Whether the first tar begins with a sample of a image and a label.

    Tars that are damaged, or whose names disagree about splits, are the user's to know where there is nothing else, but
    must not hide class folders beside them; nor may a stray tar hide train/ and val/.
    """
    folders = [name for name, folder in names.items() if folder and not name.startswith(".")]
    if holds_classes(root, [name for name in folders if name.lower().encode() in SPLIT_NAMES]):
        return False
    try:
        tars = next(iter(tars_of(root, names).values()), [])
    except UsageError:
        if holds_classes(root, folders):
            return False
        raise
    if not tars:
        return False
    try:
        sample = next(samples(join(root, tars[0])), None)
    except UserError:
        if any(names.values()):
            return False
        raise
    return sample is not None and bool(sample.images) and sample.label_member is not None


def holds_classes(root: str, folders: list[str]) -> bool:
    """Whether one of the folders holds images or further folders, and no tars."""
    inside = (list_folder(join(root, folder)) for folder in folders)
    return any(
        any(folder or is_image(name.encode("utf-8", "surrogateescape")) for name, folder in names.items())
        and not any(name.endswith(".tar") for name in names)
        for names in inside
    )


@dataclass
class Sample:
    """The members of a tar that share a key: the name up to the first dot."""

    key: bytes
    images: list[Member] = field(default_factory=list)
    lost: list[Member] = field(default_factory=list)
    """Images by their names that have no bytes in the tar."""
    label_member: Member | None = None

    def add(self, extension: bytes, member: Member) -> None:
        if is_image(b"x." + extension):
            (self.lost if member.offset == NOWHERE else self.images).append(member)
        elif member.offset == NOWHERE:
            return
        elif extension == b"cls" or (extension == b"json" and self.label_member is None):
            self.label_member = member


def samples(path: str) -> Iterator[Sample]:
    """The samples of a tar; names that begin with `__` are webdataset's own."""
    sample: Sample | None = None
    for member in scan_tar(path):
        folder, slash, name = member.name.rpartition(b"/")
        stem, _, extension = name.partition(b".")
        if stem.startswith(b"__"):
            continue
        if sample is None or sample.key != folder + slash + stem:
            if sample is not None:
                yield sample
            sample = Sample(folder + slash + stem)
        sample.add(extension.rpartition(b".")[2].lower(), member)
    if sample is not None:
        yield sample


def read_label(path: str, member: Member) -> str | None:
    """What a label member says; None where it is a json without a label."""
    content = member.head
    if len(content) < member.size:
        content = read_bytes(Location(path, member.offset, member.size))
    if not member.name.lower().endswith(b".json"):
        return content.decode("utf-8", "backslashreplace").strip()
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {text(member.name)} is no JSON ({error}). Get the tar again, or mend it.") from error
    found = next((fields[key] for key in LABEL_FIELDS if key in fields), None) if isinstance(fields, dict) else None
    # JSON can spell halves of characters, which have no bytes.
    return None if found is None else str(found).encode("utf-8", "backslashreplace").decode()


class _Collected:
    """What comes together over the tars."""

    def __init__(self, root: str, tars: Mapping[str, list[str]]) -> None:
        self.containers = [tar for split in tars.values() for tar in split]
        self.builder = TableBuilder(root, self.containers)
        self.labels: dict[str, int] = {}
        """Label as it is written -> number in the order of coming, which the table holds until all are known."""
        self.evidence = array("i")
        """For each image whose name tells its ImageNet class: that class's index; -1 for the others."""
        self.unlabeled: list[str] = []
        self.num_spare = 0
        """Images beside a sample's first one."""
        self.lost: list[str] = []
        self.num_bare_labels = 0

    def add_tar(self, root: str, split: int, container: int) -> None:
        path = join(root, self.containers[container])
        for sample in samples(path):
            self.lost += [f"{self.containers[container]}!{text(member.name)}" for member in sample.lost]
            if not sample.images:
                self.num_bare_labels += bool(sample.label_member and not sample.lost)
                continue
            label = read_label(path, sample.label_member) if sample.label_member else None
            if label is None:
                self.unlabeled.append(f"{self.containers[container]}!{text(sample.key)}")
                continue
            number = self.labels.setdefault(label, len(self.labels))
            image = sample.images[0]
            self.builder.add_member(split, number, container, image.name, image.offset, image.size)
            self.evidence.append(imagenet_index(image.name))
            self.num_spare += len(sample.images) - 1

    def notes(self) -> list[str]:
        """What is not used, so that every image is accounted for."""
        notes = []
        if self.unlabeled:
            notes.append(f"Not used: {counted(len(self.unlabeled), 'image')} without a label ({few(self.unlabeled)}).")
        if self.lost:
            images = counted(len(self.lost), "image")
            notes.append(
                f"Not used: {images} without bytes in the tar, links that lead out of it or no files "
                f"({few(self.lost)})."
            )
        if self.num_spare:
            notes.append(f"Not used: {counted(self.num_spare, 'image')}, not the first of the sample.")
        if self.num_bare_labels:
            notes.append(f"Not used: {counted(self.num_bare_labels, 'label')} without a image.")
        return notes


def imagenet_index(member: bytes) -> int:
    """The ImageNet class that a file name of ILSVRC-2012 tells (n01440764_10026, ILSVRC2012_val_00000001); else -1."""
    stem = member.rpartition(b"/")[2].partition(b".")[0]
    matched = _WNID_STEM.match(stem)
    if matched:
        known = classes_by_wnid().get(matched[1].decode())
        return known.index if known else -1
    numbered = VALIDATION_NAME.match(stem + b".JPEG")
    if numbered and 1 <= int(numbered[1]) <= len(validation_labels()):
        return int(validation_labels()[int(numbered[1]) - 1])
    return -1


def find_webdataset(root: str, names: Mapping[str, bool]) -> Source:
    """WebDataset tars in the folder or in folders in it."""
    tars = tars_of(root, names)
    collected = _Collected(root, tars)
    splits = tuple(tars)
    split_numbers = [number for number, split in enumerate(splits) for _ in tars[split]]
    for container, number in enumerate(split_numbers):
        collected.add_tar(root, number, container)
    table = collected.builder.finish()
    if len(table) == 0:
        raise UsageError(
            f"{root}: no sample with a image (jpg, png, webp, …) and a label (cls, or json with one of "
            f"{', '.join(LABEL_FIELDS)}) in {counted(len(collected.containers), 'tar')}. Give tars that hold both."
        )
    classes = label_classes(root, table, collected)
    notes = collected.notes()
    if classes[0].name == "0":
        notes.append("The tars say no class names: classes are called by their numbers.")
    return Source(
        "webdataset",
        f"{counted(len(collected.containers), 'WebDataset tar')} in {root}",
        classes,
        splits,
        table,
        tuple(notes),
    )


def label_classes(root: str, table: ImageTable, collected: _Collected) -> tuple[ClassName, ...]:
    """The classes; the table's labels become their indices.

    Labels that are numbers are the indices themselves, with ImageNet's names where the images' names agree that they
    are ImageNet's; other labels are class names.
    """
    written = list(collected.labels)
    if not all(re.fullmatch(r"\d+", label) for label in written):
        order = sorted(written)
        place = {label: index for index, label in enumerate(order)}
        table.label = np.array([place[label] for label in written], np.int32)[table.label]
        return tuple(class_of_text(label) for label in order)
    too_large = next((label for label in written if len(label.lstrip("0")) > len(str(MAX_LABEL))), None)
    if too_large is not None:  # by its length: Python reads no number of 5,000 digits
        shown = too_large if len(too_large) <= 40 else f"{too_large[:40]}…"
        raise UsageError(f"{root}: has the label {shown}; labels may go up to {MAX_LABEL:,}. Number them anew.")
    largest = max(written, key=int)
    table.label = np.array([int(label) for label in written], np.int32)[table.label]
    evidence = np.array(collected.evidence)
    told = evidence >= 0
    if int(largest) < len(imagenet_classes()) and told.any() and np.array_equal(evidence[told], table.label[told]):
        return tuple(ClassName(entry.wnid, entry.name) for entry in imagenet_classes())
    return tuple(ClassName(str(number), str(number)) for number in range(int(largest) + 1))


def class_of_text(label: str) -> ClassName:
    known = classes_by_wnid().get(label)
    return ClassName(label, known.name if known else label)
