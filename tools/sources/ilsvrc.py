"""ILSVRC-2012 and 2010 as distributed: the tars are read in place and never unpacked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sources.devkit import Devkit, find_devkit, parse_ids
from alexnet_fast.tools.sources.foreign import is_image, text
from alexnet_fast.tools.sources.image_folders import Accounts
from alexnet_fast.tools.sources.imagenet import imagenet_classes, validation_labels
from alexnet_fast.tools.sources.table import SPLIT_ORDER, ClassName, Source, TableBuilder
from alexnet_fast.tools.sources.tar_index import NOWHERE, Listing, ScanCache, is_foreign_path
from alexnet_fast.tools.storage.filesystem import join, list_folder, read_file

TARS_2012 = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKITS_2012 = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12")
NUM_IMAGES_2012 = {"train": 1_281_167, "val": 50_000}

TARS_2010 = {
    "train": "ILSVRC2010_images_train.tar",
    "val": "ILSVRC2010_images_val.tar",
    "test": "ILSVRC2010_images_test.tar",
}
DEVKITS_2010 = ("ILSVRC2010_devkit-1.0.tar.gz", "devkit-1.0.tar.gz", "ILSVRC2010_devkit-1.0", "devkit-1.0")
NUM_IMAGES_2010 = {"train": 1_261_406, "val": 50_000, "test": 150_000}
TRUTH_2010 = {"val": "ILSVRC2010_validation_ground_truth.txt", "test": "ILSVRC2010_test_ground_truth.txt"}
PATCHES_2010 = "patch_images.tar"
"""Replacements for images of all three splits that say "not available"; published later, beside the tars."""

CLASS_TAR = re.compile(r"n\d{8}\.tar\Z")
"""A tar of one class: what the train tar holds a thousand of."""

_NUMBER = re.compile(rb"_(\d{8})\.[A-Za-z]+\Z")


@dataclass
class Collected:
    """What is put together from the tars of one challenge."""

    root: str
    scans: ScanCache
    containers: list[str]
    splits: tuple[str, ...]
    classes: Mapping[str, int]
    """Wnid -> class index."""
    accounts: Accounts
    patches: dict[tuple[str, bytes], tuple[int, bytes, int, int]] = field(default_factory=dict)
    """(split, file name) -> what `TableBuilder.add_member` takes from `container` on."""
    others: Counter[str] = field(default_factory=Counter)
    """Tar -> its files that are no images."""
    loose: Counter[str] = field(default_factory=Counter)
    """Tar of class tars -> its images that are in none."""
    lost: Counter[str] = field(default_factory=Counter)
    """Tar -> its images that have no bytes in it."""
    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.builder = TableBuilder(self.root, self.containers)

    def listing(self, container: int, nested: bool = False) -> Listing:
        return self.scans.listing(join(self.root, self.containers[container]), nested)

    def images(self, container: int, nested: bool = False) -> Iterator[tuple[bytes, int, int]]:
        """Name, offset and size of a tar's images (`nested`: of those in its class tars); the rest is counted."""
        for member, offset, size in self.listing(container, nested):
            if not is_image(last_name(member)) or is_foreign_path(member):
                self.others[self.containers[container]] += 1
            elif nested and b".tar!" not in member:
                self.loose[self.containers[container]] += 1
            elif offset == NOWHERE:
                self.lost[self.containers[container]] += 1
            else:
                yield member, offset, size

    def add(self, split: str, label: int, container: int, member: bytes, offset: int, size: int) -> None:
        place = self.patches.get((split, last_name(member)), (container, member, offset, size))
        self.builder.add_member(self.splits.index(split), label, *place)
        self.found[split] += 1

    def add_classes(self, container: int, wnid: str | None = None, split: str = "train") -> None:
        """Images of a tar of class tars, or of the tar of one class `wnid`."""
        for member, offset, size in self.images(container, nested=wnid is None):
            name = wnid or text(member[: member.index(b".tar!")]).rpartition("/")[2]
            if name not in self.classes:
                raise UserError(
                    f"{join(self.root, self.containers[container])}: {name}.tar is no class of the challenge."
                    " If these are other classes, put the class tars themselves into a folder of their own."
                )
            self.add(split, self.classes[name], container, member, offset, size)

    def add_numbered(self, split: str, container: int, labels: npt.NDArray[np.int32]) -> None:
        """Images whose names end in a number 1, 2, …, which is the place of their label."""
        for member, offset, size in self.images(container):
            matched = _NUMBER.search(member)
            if not matched or not 1 <= int(matched[1]) <= len(labels):
                raise UserError(
                    f"{join(self.root, self.containers[container])}: holds {text(member)}, whose number has no label "
                    f"(there are {len(labels):,}). Is this the tar that its name says?"
                )
            self.add(split, int(labels[int(matched[1]) - 1]), container, member, offset, size)

    def notes(self, expected: Mapping[str, int]) -> list[str]:
        """How many images the challenge has and the tars do not, and what is no image in them."""
        for tar, count in self.loose.items():
            self.accounts.add(tar, count, "images in no class tar")
        for tar, count in self.lost.items():
            self.accounts.add(tar, count, "images without bytes in the tar: links that lead out of it, or no files")
        short = [
            f"{split} has {self.found[split]:,} of the challenge's {expected[split]:,} images."
            for split in self.splits
            if self.found[split] != expected.get(split, self.found[split])
        ]
        others = (
            f"Ignored: {counted(count, 'file')} in {tar}, no images by their names."
            for tar, count in self.others.items()
        )
        return [*short, *others]


def last_name(member: bytes) -> bytes:
    """A member's file name without folders and outer tars."""
    return re.split(rb"[/!]", member)[-1]


def class_tars(root: str, names: Mapping[str, bool]) -> list[str]:
    """Tars of one class each, as the train tar's content unpacks to, in the folder or in its train folder."""
    here = [name for name in names if CLASS_TAR.match(name)]
    if here or not names.get("train"):
        return here
    return [f"train/{name}" for name in list_folder(join(root, "train")) if CLASS_TAR.match(name)]


def is_ilsvrc2012(names: Mapping[str, bool]) -> bool:
    return any(tar in names for tar in TARS_2012.values())


def is_ilsvrc2010(names: Mapping[str, bool]) -> bool:
    return any(tar in names for tar in TARS_2010.values())


def find_ilsvrc2012(root: str, names: dict[str, bool], scans: ScanCache, accounts: Accounts) -> Source:
    """ILSVRC-2012: labels are built in; a devkit beside the tars is compared with them."""
    train = [TARS_2012["train"]] if TARS_2012["train"] in names else class_tars(root, names)
    val = [TARS_2012["val"]] if TARS_2012["val"] in names else []
    if not train and not val:
        raise UsageError(
            f"{root}: holds neither {TARS_2012['train']} nor {TARS_2012['val']}, nor tars of one class each. Give the "
            "folder that holds them, or leave --source away: what is there is found by looking."
        )
    splits = tuple(split for split, tars in (("train", train), ("val", val)) if tars)
    notes = compare_devkit(find_devkit(root, names, DEVKITS_2012))
    notes += missing_notes(TARS_2012, splits)
    collected = Collected(
        root, scans, train + val, splits, {entry.wnid: entry.index for entry in imagenet_classes()}, accounts
    )
    for number, tar in enumerate(train):
        collected.add_classes(number, None if tar == TARS_2012["train"] else Path(tar).stem)
    if val:
        collected.add_numbered("val", len(train), validation_labels())
    return Source(
        "ilsvrc2012",
        f"ILSVRC-2012 as distributed, in {root}",
        tuple(ClassName(entry.wnid, entry.name) for entry in imagenet_classes()),
        splits,
        collected.builder.finish(),
        (*notes, *collected.notes(NUM_IMAGES_2012)),
        label_source="the names of the class tars; for val the challenge's labels, which are built in",
    )


def missing_notes(tars: Mapping[str, str], splits: tuple[str, ...]) -> list[str]:
    """What is not there and therefore not sharded."""
    notes = []
    for split, tar in tars.items():
        if split not in splits:
            notes.append(f"There is no {tar}, so there is no {split} split.")
    return notes


def compare_devkit(devkit: Devkit | None) -> list[str]:
    """UserError where the kit's validation labels are not the ones built in."""
    if devkit is None:
        return []
    ids = devkit.ids("ILSVRC2012_validation_ground_truth.txt")
    if ids is None:
        raise UserError(f"{devkit.path}: holds no validation labels. Get it again, or move it away: it is not needed.")
    index_of = {entry.ilsvrc2012_id: entry.index for entry in imagenet_classes()}
    wnid_of = {entry.ilsvrc2012_id: entry.wnid for entry in imagenet_classes()}
    differing = [number for number, (wnid, _) in devkit.classes().items() if wnid_of.get(number) != wnid]
    theirs = np.array([index_of.get(int(number), -1) for number in ids])
    if differing or not np.array_equal(theirs, validation_labels()):
        raise UserError(
            f"{devkit.path}: its classes or validation labels are not those of ILSVRC-2012 that are built in "
            f"(differences: {counted(len(differing), 'class id')}, "
            f"{counted(count_differing(theirs, validation_labels()), 'label')}). "
            "Get it again, or move it away: it is not needed."
        )
    return ["The devkit's class ids and 50,000 validation labels agree with the ones built in."]


def count_differing(theirs: npt.NDArray[np.int64], ours: npt.NDArray[np.int32]) -> int:
    common = min(len(theirs), len(ours))
    return int((theirs[:common] != ours[:common]).sum()) + abs(len(theirs) - len(ours))


def classes_2010(devkit: Devkit | None, train: Listing) -> dict[str, str]:
    """Wnid -> words; out of the devkit, or without one, the wnids of the class tars as their own words."""
    if devkit:
        return dict(devkit.classes().values())
    wnids = {text(member.split(b".tar!")[0]).rpartition("/")[2] for member, _, _ in train if b".tar!" in member}
    return {wnid: wnid for wnid in wnids}


def find_ilsvrc2010(root: str, names: dict[str, bool], scans: ScanCache, accounts: Accounts) -> Source:
    """ILSVRC-2010: classes and validation labels from the devkit, test labels from their own file beside the tars.

    Without the devkit only train can be labeled, by the names of its class tars.
    """
    tars = {split: tar for split, tar in TARS_2010.items() if tar in names}
    if not tars:
        raise UsageError(
            f"{root}: holds none of {', '.join(TARS_2010.values())}. Give the folder that holds them, or leave "
            "--source away: what is there is found by looking."
        )
    containers = [*tars.values(), *([PATCHES_2010] if PATCHES_2010 in names else [])]
    devkit = find_devkit(root, names, DEVKITS_2010)
    train = scans.listing(join(root, tars["train"]), True) if "train" in tars and not devkit else Listing()
    words = classes_2010(devkit, train)
    index_of = {wnid: index for index, wnid in enumerate(sorted(words))}
    truth = ground_truth_2010(root, names, devkit, index_of) if devkit else {}
    notes = [] if devkit else [f"There is no {DEVKITS_2010[0]}: classes have no names, and only train has labels."]
    splits = tuple(split for split in SPLIT_ORDER if split in tars and (split == "train" or split in truth))
    notes += missing_notes(TARS_2010, tuple(tars))
    notes += [f"There is no {TRUTH_2010[split]}, so {split} is skipped." for split in tars if split not in splits]
    if not splits:
        raise UserError(f"{root}: nothing can be labeled. " + " ".join(notes) + " Bring the missing files.")
    collected = Collected(root, scans, containers, splits, index_of, accounts)
    if PATCHES_2010 in names:
        collected.patches = patches_2010(collected, len(tars))
        notes.append(f"Taken from {PATCHES_2010} instead: {counted(len(collected.patches), 'image')}.")
    for split in splits:
        if split == "train":
            collected.add_classes(containers.index(tars[split]))
        else:
            collected.add_numbered(split, containers.index(tars[split]), truth[split])
    return Source(
        "ilsvrc2010",
        f"ILSVRC-2010 as distributed, in {root}",
        tuple(ClassName(wnid, words[wnid].split(", ")[0]) for wnid in sorted(words)),
        splits,
        collected.builder.finish(),
        (*notes, *collected.notes(NUM_IMAGES_2010)),
        label_source="the names of the class tars; for val and test the devkit and the file of test labels",
    )


def ground_truth_2010(
    root: str, names: Mapping[str, bool], devkit: Devkit, index_of: Mapping[str, int]
) -> dict[str, npt.NDArray[np.int32]]:
    """Split -> class index of its images 1, 2, …, where the labels are in the devkit or beside it."""
    index_of_id = {number: index_of[wnid] for number, (wnid, _) in devkit.classes().items()}
    truth = {}
    for split, name in TRUTH_2010.items():
        path = join(root, name)
        ids = parse_ids(read_file(path), path) if name in names else devkit.ids(name)
        if ids is None:
            continue
        try:
            truth[split] = np.array([index_of_id[int(number)] for number in ids], dtype=np.int32)
        except KeyError as error:
            raise UserError(
                f"{name}: holds the class id {error}, which is none of {devkit.path}'s. Get both again."
            ) from error
    return truth


def patches_2010(collected: Collected, container: int) -> dict[tuple[str, bytes], tuple[int, bytes, int, int]]:
    """The replacement images: members `…/train/NAME.JPEG`, `…/val/…`, `…/test/…`."""
    patches = {}
    for member, offset, size in collected.images(container):
        parts = member.split(b"/")
        if len(parts) > 1:
            patches[text(parts[-2]), parts[-1]] = (container, member, offset, size)
    return patches
