"""Other people's WebDataset tars: samples of an image (jpg, png, webp, …) and a label (cls, json, cls.txt, txt)."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.classes import ClassList, LabelCounts, class_name, make_classes
from alexnet_fast.tools.sources.file_names import imagenet_index
from alexnet_fast.tools.sources.foreign import could_be_data, is_foreign, text
from alexnet_fast.tools.sources.image_folders import Accounts
from alexnet_fast.tools.sources.imagenet import imagenet_classes
from alexnet_fast.tools.sources.sample_labels import UNLABELED
from alexnet_fast.tools.sources.sample_members import is_image_component, split_member
from alexnet_fast.tools.sources.samples import (
    Sample,
    image_of,
    label_of_sample,
    samples_of,
    says_label,
    spare_images,
    texts_are_labels,
)
from alexnet_fast.tools.sources.splits import explicit_splits, said
from alexnet_fast.tools.sources.table import (
    SPLIT_ORDER,
    ClassName,
    ImageTable,
    Location,
    Source,
    TableBuilder,
    read_bytes,
)
from alexnet_fast.tools.sources.tar_index import Listing
from alexnet_fast.tools.storage.filesystem import join


def splits_of_tars(root: str, tars: Sequence[str], given: Sequence[str], accounts: Accounts) -> dict[str, str]:
    """Tar -> its split: as `--split` says, else as the words in its path say; all are train where no path has one."""
    if given:
        folders = {tar: tuple(tar.encode("utf-8", "surrogateescape").split(b"/")) for tar in tars}
        chosen = explicit_splits(root, given, folders.values())
        for tar, folder in folders.items():
            if chosen[folder] is None:
                accounts.add(tar, 1, "tars that no --split names")
        return {tar: found[0] for tar, folder in folders.items() if (found := chosen[folder])}
    return split_by_name(root, tars)


def split_by_name(root: str, tars: Sequence[str]) -> dict[str, str]:
    by_split: dict[str, list[str]] = defaultdict(list)
    for tar in tars:
        splits = {what.split for part in tar.split("/") if (what := said(part.removesuffix(".tar").encode()))}
        if len(splits) > 1:
            raise UsageError(
                f"{root}: the path of {tar!r} names the splits {' and '.join(sorted(splits))}. Say which it is: "
                f"--split {min(splits)}={tar}."
            )
        by_split[next(iter(splits), "")].append(tar)
    if set(by_split) > {""}:
        named = next(tars[0] for split, tars in by_split.items() if split)
        raise UsageError(
            f"{root}: the tar {few(by_split[''])} names no split, but {named!r} does. Say what each is with "
            f"--split train={by_split[''][0]} and so on (wildcards are allowed)."
        )
    return {tar: split or "train" for split, named in by_split.items() for tar in named}


def is_beside(member: bytes, found: Mapping[bytes, Sample]) -> bool:
    """Whether a member may be data, but is neither a sample's image nor what belongs to one (a mask, an array)."""
    name = member.rpartition(b"/")[2]
    if not could_be_data(name.lstrip(b".")) or any(map(is_foreign, member.split(b"/"))):
        return False
    key, component = split_member(member)
    if is_image_component(component):
        return False  # in the samples
    return key not in found or not found[key].images


class _Collected:
    """What comes together over the tars."""

    def __init__(self, root: str, tars: Sequence[str], accounts: Accounts) -> None:
        self.root = root
        self.accounts = accounts
        self.builder = TableBuilder(root, tars)
        self.counts = LabelCounts()
        self.evidence = array("i")
        """For each image whose name says its ImageNet class: that class's index; -1 for the others."""
        self.origins: Counter[str] = Counter()
        self.num_bare_labels = 0

    def add_tar(self, split: str, container: int, tar: str, listing: Listing, with_texts: bool) -> None:
        path = join(self.root, tar)
        unlabeled, spare, lost = [], Counter[str](), []
        found = samples_of(listing)
        beside = [text(name) for name in listing.names if is_beside(name, found)]
        self.accounts.add(tar, len(beside), f"members that may be data and are not read ({few(beside)})")
        for key, sample in found.items():
            lost += [text(listing.names[row]) for row in sample.lost]
            if not sample.images:
                self.num_bare_labels += bool(sample.labels and not sample.lost)
                continue
            row = image_of(path, listing, key, sample)
            label = label_of_sample(path, listing, key, sample, with_texts)
            spare.update(text(listing.names[other]) for other in spare_images(sample, row))
            if label == UNLABELED:
                unlabeled.append(text(key))
                continue
            number = self.counts.add(label, split)
            name, offset, size = listing.names[row], listing.offsets[row], listing.sizes[row]
            self.builder.add_member(SPLIT_ORDER.index(split), number, container, name, offset, size)
            self.evidence.append(imagenet_index(name.rpartition(b"/")[2]))
            self.origins.update("." + component.decode() for component, _ in (sample.labels or sample.texts)[:2])
        self.accounts.add(tar, len(unlabeled), f"images without a label ({few(unlabeled)})")
        self.accounts.add(
            tar, len(lost), f"images without bytes in the tar, links that lead out of it or no files ({few(lost)})"
        )
        self.accounts.add(tar, spare.total(), f"images besides the sample's own ({few(sorted(spare))})")


def find_webdataset(
    root: str,
    listings: Mapping[str, Listing],
    packed: dict[int, str],
    accounts: Accounts,
    splits: Sequence[str] = (),
    class_list: ClassList | None = None,
) -> Source:
    """The source that these tars (paths below the root) are.

    UsageError where no image has a label, or where labels contradict each other; UserError where a sample does.
    """
    tars = list(listings)
    collected = _Collected(root, tars, accounts)
    split_of = splits_of_tars(root, tars, splits, accounts)
    check_copies(root, listings, split_of)
    with_texts = not has_label_members(listings)
    for container, tar in enumerate(tars):
        if tar in split_of:
            collected.add_tar(split_of[tar], container, tar, listings[tar], with_texts)
    if not len(collected.builder):
        raise UsageError(
            f"{root}: no sample with an image (jpg, png, webp, …) and a label beside it (cls, json, cls.txt, txt) in "
            f"{counted(len(tars), 'tar')}. Give tars that hold both, or a table with --labels FILE."
        )
    check_evidence(root, collected)
    made = make_classes(root, collected.counts, class_list)
    table = collected.builder.finish()
    numbers = np.array([label.number is not None for label in collected.counts.labels])[table.label]
    table.label = made.index[table.label]
    present = sorted(set(table.split.tolist()))
    table.split = np.searchsorted(present, table.split).astype(np.uint8)
    order = np.argsort(table.split, kind="stable")
    if (order[1:] < order[:-1]).any():
        table = table.rearranged(order, table.split[order])
    table.packed = packed
    notes = list(made.notes)
    classes = made.classes
    if class_list is None and numbers.any():
        classes = with_imagenet_names(made.classes, table, np.array(collected.evidence)[order])
    if all(entry.name == str(number) for number, entry in enumerate(classes)):
        notes.append("The tars name no classes: classes are called by their numbers.")
    if collected.num_bare_labels:
        notes.append(f"Ignored: {counted(collected.num_bare_labels, 'label')} without an image.")
    return Source(
        "webdataset",
        f"{counted(len(tars), 'WebDataset tar')} in {root}",
        classes,
        tuple(SPLIT_ORDER[number] for number in present),
        table,
        tuple(notes),
        warnings=tuple(made.warnings),
        label_source="the samples' " + ", ".join(name for name, _ in collected.origins.most_common()),
    )


def check_copies(root: str, listings: Mapping[str, Listing], split_of: Mapping[str, str]) -> None:
    """UsageError where two tars of a split hold the same samples, as a second download does.

    Compared are names, sizes, labels, and the first image.
    """
    seen: dict[tuple[str, bytes], str] = {}
    for tar, split in split_of.items():
        listing = listings[tar]
        digest = hashlib.sha256(listing.names.buffer)
        digest.update(listing.sizes.tobytes())
        digest.update(listing.labels.buffer)
        other = seen.setdefault((split, digest.digest()), tar)
        content = first_image(root, tar, listing) if other != tar else b""
        if content and content == first_image(root, other, listings[other]):
            raise UsageError(
                f"{root}: {tar!r} is a copy of {other!r}: both hold the same samples. Move one of them out of the "
                "source."
            )


def first_image(root: str, tar: str, listing: Listing) -> bytes:
    """Its bytes; none where there is no image, and of a compressed tar, which would have to be unpacked for it."""
    rows = (row for row, name in enumerate(listing.names) if is_image_component(split_member(name)[1]))
    row = next(rows, None)
    if row is None or listing.packed:
        return b""
    return read_bytes(Location(join(root, tar), listing.offsets[row], listing.sizes[row]))


def has_label_members(listings: Mapping[str, Listing]) -> bool:
    """Whether any image's class is said by another member than a text; texts are captions then.

    UsageError where there are only texts, and these are captions.
    """
    for listing in listings.values():
        found = samples_of(listing).values()
        if any(sample.images and says_label(listing, sample) for sample in found):
            return True
    for tar, listing in listings.items():
        found = samples_of(listing).values()
        texts = [listing.labels[row] for sample in found for _, row in sample.texts]
        if texts and not texts_are_labels(listing, found):
            raise UsageError(
                f"{tar}: the only texts beside the images are .txt such as {text(texts[0][:60])!r}, which are "
                "captions and no classes. Call the labels .cls, or give a table with --labels FILE."
            )
    return False


def with_imagenet_names(
    classes: tuple[ClassName, ...], table: ImageTable, evidence: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> tuple[ClassName, ...]:
    """ImageNet's 1,000 names, where the labels are numbers and most of the images' names that say a class agree."""
    known = evidence >= 0
    unnamed = all(entry.name == str(number) for number, entry in enumerate(classes))
    agree = known.any() and np.mean(evidence[known] == table.label[known]) > 0.5
    if not unnamed or len(classes) > len(imagenet_classes()) or not agree:
        return classes
    return tuple(class_name(entry.wnid) for entry in imagenet_classes())


SCHEMES = ("the place among the sorted WordNet ids", "that place counted from 1", "the devkit's ids")


def check_evidence(root: str, collected: _Collected) -> None:
    """UsageError where file names prove that numbers mean different classes in different splits, or are no indices."""
    labels = [label.number for label in collected.counts.labels]
    by_split: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for place, label, index in zip(collected.builder.splits, collected.builder.labels, collected.evidence, strict=True):
        number = labels[label]
        if index >= 0 and number is not None:
            by_split[SPLIT_ORDER[place]][index, number] += 1
    schemes = {split: scheme_of(pairs) for split, pairs in by_split.items()}
    known = {scheme for scheme in schemes.values() if scheme}
    shown = "; ".join(f"{split}: {scheme}" for split, scheme in schemes.items() if scheme)
    if len(known) > 1:
        raise UsageError(
            f"{root}: the splits number ImageNet's classes differently, as the images' names show ({shown}). Number "
            "them alike in all tars."
        )
    if known and known != {SCHEMES[0]}:
        raise UsageError(
            f"{root}: the labels are not the classes' indices 0 to 999, as the images' names show ({shown}). Number "
            "the classes by the sorted WordNet ids, from 0."
        )
    meant: dict[int, tuple[str, int]] = {}
    for split, pairs in by_split.items():
        for index, mine in majority(pairs).items():
            first, other = meant.setdefault(index, (split, mine))
            if other != mine:
                wnid = imagenet_classes()[index].wnid
                raise UsageError(
                    f"{root}: the labels contradict each other: images of {wnid} have the label {other} in {first} and "
                    f"{mine} in {split}. Number the classes alike in all tars."
                )


def majority(pairs: Counter[tuple[int, int]]) -> dict[int, int]:
    """ImageNet index -> the label that most of its images have."""
    best: dict[int, tuple[int, int]] = {}
    for (index, number), count in pairs.items():
        if count > best.get(index, (0, 0))[0]:
            best[index] = (count, number)
    return {index: number for index, (_, number) in best.items()}


def scheme_of(pairs: Counter[tuple[int, int]]) -> str | None:
    """How the labels number ImageNet's classes; None where it is in none of the known ways, or where one class tells
    too little.
    """
    numbers = majority(pairs)
    if len(numbers) < 2:
        return None
    entries = [(imagenet_classes()[index], number) for index, number in numbers.items()]
    ways = [
        [(entry.index, entry.index + 1, entry.ilsvrc2012_id)[way] == number for entry, number in entries]
        for way in range(3)
    ]
    return next((name for name, agree in zip(SCHEMES, ways, strict=True) if all(agree)), None)
