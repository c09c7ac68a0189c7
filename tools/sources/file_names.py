"""What an image's own file name says in ImageNet: its class, or that it is of the validation or the test set."""

from __future__ import annotations

import re
from typing import NamedTuple

from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes, validation_labels

_HELD_OUT = re.compile(rb"ILSVRC201\d_(val|test)_(\d{8})(?:_(n\d{8}))?(?:[._-].*)?", re.IGNORECASE | re.DOTALL)
_VALIDATION_2012 = re.compile(rb"ILSVRC2012_val_(\d{8})(?:_n\d{8})?(?:\.[A-Za-z0-9]+)?", re.IGNORECASE)
_WNID_FIRST = re.compile(rb"(n\d{8})_.+", re.DOTALL)
_WNID_LAST = re.compile(rb".+_(n\d{8})\.[A-Za-z0-9]+", re.DOTALL)


class NameLabel(NamedTuple):
    """The class that a file name says."""

    wnid: str
    origin: str
    """How: for people."""


BY_NUMBER = "the challenge's validation labels, which are built in"
BY_WNID = "WordNet ids in the file names"


def split_of_name(name: bytes) -> str | None:
    """val or test for `ILSVRC2012_val_00000001.JPEG`, `ILSVRC2012_test_…`; None for other names."""
    matched = _HELD_OUT.fullmatch(name)
    return matched[1].decode().lower() if matched else None


def held_out_image(name: bytes) -> bytes:
    """Which of the challenge's images one is that has a `split_of_name`, whatever stands behind its number:
    `ilsvrc2012_val_00000001`.
    """
    return name[: len(b"ILSVRC2012_val_00000001") + (b"_test_" in name.lower())].lower()


def validation_index(name: bytes) -> int | None:
    """The class index of a validation image of ILSVRC-2012, by its number; None for other names."""
    matched = _VALIDATION_2012.fullmatch(name)
    labels = validation_labels()
    return int(labels[int(matched[1]) - 1]) if matched and 1 <= int(matched[1]) <= len(labels) else None


def label_of_name(name: bytes) -> NameLabel | None:
    """The class that a file name says; a wnid in it counts before the number of a validation image.

    None where it says none, or two.
    """
    last = _WNID_LAST.fullmatch(name)
    first = _WNID_FIRST.fullmatch(name)
    if last or first:
        wnids = {matched[1].decode() for matched in (last, first) if matched}
        return NameLabel(wnids.pop(), BY_WNID) if len(wnids) == 1 else None
    index = validation_index(name)
    return None if index is None else NameLabel(imagenet_classes()[index].wnid, BY_NUMBER)


def imagenet_index(name: bytes) -> int:
    """The ImageNet class index that a file name says; -1 where it says none."""
    label = label_of_name(name)
    known = classes_by_wnid().get(label.wnid) if label else None
    return known.index if known else -1
