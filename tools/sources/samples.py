"""A tar's WebDataset samples: members that share a key, wherever in the tar they are."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sources.foreign import is_foreign, text
from alexnet_fast.tools.sources.sample_labels import UNLABELED, Label, LabelError, label_of, label_of_json, merged
from alexnet_fast.tools.sources.sample_members import DAMAGED, is_image_component, is_label, split_member
from alexnet_fast.tools.sources.table import Location, read_bytes
from alexnet_fast.tools.sources.tar_index import NOWHERE, Listing

LONGEST_TEXT = 50
"""Characters of a `.txt` that may be a class's name; longer ones are captions."""
MOST_WORDS = 4


@dataclass
class Sample:
    """The members of a tar that share a key, as (component, row of the listing)."""

    images: list[tuple[bytes, int]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Rows of images by their names that have no bytes in the tar."""
    labels: list[tuple[bytes, int]] = field(default_factory=list)
    texts: list[tuple[bytes, int]] = field(default_factory=list)
    """Texts, which are labels or captions."""


def samples_of(listing: Listing) -> dict[bytes, Sample]:
    """Key -> sample, in the order in which the keys come first."""
    found: dict[bytes, Sample] = {}
    for row, (member, offset, _) in enumerate(listing):
        key, component = split_member(member)
        name = key.rpartition(b"/")[2]
        if not component or (name.startswith(b"__") and not is_image_component(component)):
            continue  # webdataset's own, such as __meta__.json
        if any(map(is_foreign, member.split(b"/"))):
            continue
        image = is_image_component(component)
        if not image and not is_label(member, 0):
            continue
        sample = found.setdefault(key, Sample())
        if image:
            sample.lost.append(row) if offset == NOWHERE else sample.images.append((component, row))
        elif is_text(member):
            sample.texts.append((component, row))
        else:
            sample.labels.append((component, row))
    return found


def holds_samples(listing: Listing) -> bool:
    """Whether an image in the tar has a label beside it under its key."""
    labels = {
        split_member(listing.names[row])[0]
        for row, end in enumerate(listing.labels.ends)
        if end > (listing.labels.ends[row - 1] if row else 0) and not is_text(listing.names[row])
    }
    if labels and any(is_image_component(part[1]) and part[0] in labels for part in map(split_member, listing.names)):
        return True
    return texts_are_labels(listing, samples_of(listing).values())


def is_text(member: bytes) -> bool:
    """Whether a member is a text that may be a caption: `.txt`, but for `.cls.txt`."""
    component = split_member(member)[1]
    return component.rpartition(b".")[2] == b"txt" and not component.endswith(b"cls.txt")


def has_companions(listing: Listing) -> bool:
    """Whether the images have texts or JSON beside them that are no labels: captions, or what a download noted."""
    return any(sample.images and (sample.labels or sample.texts) for sample in samples_of(listing).values())


def texts_are_labels(listing: Listing, found: Iterable[Sample]) -> bool:
    """Whether the texts beside the images are labels and no captions: short, on one line, and some of them alike."""
    texts = [listing.labels[row] for sample in found if sample.images for _, row in sample.texts]
    short = all(
        b"\n" not in content and len(content) <= LONGEST_TEXT and len(content.split()) <= MOST_WORDS
        for content in texts
    )
    numbers = all(content.strip().lstrip(b"-").isdigit() for content in texts)
    return bool(texts) and short and (numbers or len(set(texts)) < len(texts))


def exact_first(members: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """The members whose component is one extension; where there are none, the longer ones."""
    exact = [(component, row) for component, row in members if b"." not in component]
    return exact or members


def image_of(tar: str, listing: Listing, key: bytes, sample: Sample) -> int:
    """The row of a sample's image; UserError where it has several that differ."""
    chosen = exact_first(sample.images)
    first = chosen[0][1]
    for component, row in chosen[1:]:
        if listing.sizes[row] != listing.sizes[first] or not alike(tar, listing, first, row):
            names = sorted({text(component) for component, _ in chosen})
            twice = " twice" if len(names) == 1 else ""
            raise UserError(
                f"{tar}: the sample {text(key)!r} has several images that differ ({', '.join(names[:4])}{twice}). By "
                "webdataset's convention a sample's key ends at the first dot of the file name: names that differ only "
                "behind a dot are one sample. Rename the members (dots become _), or leave one image in each sample."
            )
    return first


def alike(tar: str, listing: Listing, one: int, two: int) -> bool:
    """Whether two members have the same bytes; those of a compressed tar are not compared."""
    if listing.offsets[one] == listing.offsets[two]:
        return True
    if listing.packed:
        return False
    contents = [read_bytes(Location(tar, listing.offsets[row], listing.sizes[row])) for row in (one, two)]
    return contents[0] == contents[1]


def label_of_sample(tar: str, listing: Listing, key: bytes, sample: Sample, with_texts: bool) -> Label:
    """What a sample's label members say together; UserError where two of them disagree, or where one is no label.

    with_texts: whether texts are labels in this source.  A member that says -1 leaves the class to the others.
    """
    members = exact_first(sample.labels)
    if with_texts:
        members = members + exact_first(sample.texts)
    try:
        labels = (read_label(component, listing.labels[row]) for component, row in members)
        return functools.reduce(merged, labels, UNLABELED)
    except LabelError as error:
        names = ", ".join(text(listing.names[row]) for _, row in members)
        raise UserError(
            f"{tar}: {names} (sample {text(key)!r}): {error}. Correct the tar, or leave the sample out."
        ) from error


def says_label(listing: Listing, sample: Sample) -> bool:
    """Whether a label member other than a text says a class, or holds what is none; -1 in it says no class."""
    try:
        return any(read_label(part, listing.labels[row]) != UNLABELED for part, row in exact_first(sample.labels))
    except LabelError:  # which `label_of_sample` raises with the sample's name
        return True


def read_label(component: bytes, content: bytes) -> Label:
    """One label member's label."""
    if content.startswith(DAMAGED):
        raise LabelError(f"is no JSON ({content[1:].decode()})")
    if component.endswith(b"json"):
        return label_of_json(json.loads(content)) if content else UNLABELED
    return label_of(content)


def spare_images(sample: Sample, chosen: int) -> Iterator[int]:
    """The rows of a sample's images besides the one taken."""
    return (row for _, row in sample.images if row != chosen)
