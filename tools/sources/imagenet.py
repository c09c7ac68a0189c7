"""The 1,000 classes of ILSVRC-2012 and the labels of its 50,000 validation images, as packaged facts.

A class's index is its place among the sorted WordNet ids (wnids), the field's convention.  The devkit numbers the same
classes differently (`ilsvrc2012_id`), and class names are no keys: "crane" and "maillot" occur twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ImageNetClass:
    """One of the 1,000 classes."""

    index: int
    """0..999, the place among the sorted wnids."""
    wnid: str
    """WordNet id, such as n01440764: the folder's name."""
    ilsvrc2012_id: int
    """1..1000, the devkit's own number."""
    name: str
    """A short name, such as "tench"; two names occur twice."""
    lemmas: str
    """All of WordNet's words, such as "tench, Tinca tinca"."""


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """The classes in index order."""
    lines = (files("alexnet_fast.tools.sources") / "imagenet_classes.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    return tuple(ImageNetClass(int(row[0]), row[1], int(row[2]), row[3], row[4]) for row in rows)


@cache
def classes_by_wnid() -> dict[str, ImageNetClass]:
    """Wnid -> its class."""
    return {entry.wnid: entry for entry in imagenet_classes()}


@cache
def validation_labels() -> npt.NDArray[np.int32]:
    """(50000,) class index 0..999 of ILSVRC2012_val_00000001.JPEG, …00000002.JPEG and so on."""
    text = (files("alexnet_fast.tools.sources") / "ilsvrc2012_val_labels.txt").read_text(encoding="ascii")
    return np.array(text.split(), dtype=np.int32)
