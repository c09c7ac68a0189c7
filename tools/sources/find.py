"""Where the images come from: found by looking."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_fast.tools.dataset import MANIFEST, MEAN_IMAGE
from alexnet_fast.tools.dataset_parts import Unused
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import few
from alexnet_fast.tools.sharding.tar_writer import MAX_LABEL
from alexnet_fast.tools.sources.classes import ClassList, read_class_list
from alexnet_fast.tools.sources.contents import Contents, read_contents, unreadable_formats
from alexnet_fast.tools.sources.file_names import label_of_name, split_of_name
from alexnet_fast.tools.sources.folders import find_class_folders
from alexnet_fast.tools.sources.foreign import is_image, is_tar, text
from alexnet_fast.tools.sources.held_out import check_names
from alexnet_fast.tools.sources.ilsvrc import (
    TARS_2012,
    class_tars,
    find_ilsvrc2010,
    find_ilsvrc2012,
    is_ilsvrc2010,
    is_ilsvrc2012,
)
from alexnet_fast.tools.sources.label_files import LabelFiles
from alexnet_fast.tools.sources.parquet import find_parquet
from alexnet_fast.tools.sources.sample_labels import WNID
from alexnet_fast.tools.sources.samples import has_companions
from alexnet_fast.tools.sources.shards import find_shards, is_manifest
from alexnet_fast.tools.sources.splits import said
from alexnet_fast.tools.sources.table import ClassName, ImageTable, Location, Source, read_bytes
from alexnet_fast.tools.sources.tar_index import ScanCache
from alexnet_fast.tools.sources.validation_split import check_fraction, draw_validation
from alexnet_fast.tools.sources.webdataset import find_webdataset
from alexnet_fast.tools.storage.filesystem import absolute, join, list_folder
from alexnet_fast.tools.storage.output import Output
from alexnet_fast.tools.storage.work_names import WORK

__all__ = ["KINDS", "ClassName", "ImageTable", "Location", "Source", "find_source", "read_bytes"]

KINDS = ("class-tars", "folders", "ilsvrc2010", "ilsvrc2012", "parquet", "shards", "webdataset")
"""What `--source` may be; `class-tars` are `folders` whose tars are classes whatever they are called."""

LABEL_FILES = (b"val_annotations.txt",)
"""Names of texts that are taken for tables of labels unasked: Tiny ImageNet's."""


@dataclass(frozen=True)
class Wishes:
    """What the user said about the source."""

    splits: tuple[str, ...] = ()
    """`--split NAME=PATH`."""
    labels: tuple[str, ...] = ()
    """Files of labels."""
    class_list: ClassList | None = None


def find_source(
    path: Path | str,
    kind: str | None = None,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    exclude: Path | str | None = None,
    cache: Output | None = None,
    splits: Sequence[str] = (),
    labels: Sequence[str] = (),
    classes: str | None = None,
) -> Source:
    """Find out what `path` (a folder, a tar, a parquet file, or a URL) holds and list its images.

    kind: one of `KINDS` overrules the looking.  val_fraction: draw a `val` split out of train, seeded.
    exclude: the output folder or URL, which may lie inside the source and is never looked into.
    cache: the output, to keep the scan of large tars in, so that a second run need not repeat it; it is written when
    the source's `scans` are saved.
    splits: `NAME=PATH` for each folder or tar of a split, instead of looking for splits.  labels: tables of labels.
    classes: `imagenet`, or a file with a class in a line: the classes' indices.
    Raises UsageError, with what was looked for and what was seen, where nothing fits, or where two readings remain.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--source {kind}: there is no such kind of source; the kinds are {', '.join(KINDS)}.")
    if val_fraction is not None:
        check_fraction(val_fraction)  # before tars are scanned, which takes minutes
    if str(path) == "":
        raise UsageError("SOURCE is empty, which would be the folder that you are in. Give a folder, a tar or a URL.")
    wishes = Wishes(tuple(splits), tuple(labels), read_class_list(classes))
    contents = read_contents(absolute(path), exclude, ScanCache(cache))
    source = replace(find_kind(contents, kind, wishes), scans=contents.scans)
    if source.kind not in ("ilsvrc2010", "ilsvrc2012", "shards"):  # their splits and labels are known by themselves
        found = check_names(source, chosen=bool(splits or labels))
        source = replace(source, warnings=(*source.warnings, *found))
    source = replace(source, unused=merged(contents), notes=(*source.notes, *contents.notes()))
    if not len(source.table):
        raise UsageError(f"{contents.root}: no images in it. {' '.join(source.notes)} Give the folder that holds them.")
    if len(source.classes) > MAX_LABEL + 1:
        raise UsageError(
            f"{contents.root}: has {len(source.classes):,} classes; there may be {MAX_LABEL + 1:,}. Give a part of "
            "them."
        )
    if val_fraction is not None:
        return draw_validation(source, val_fraction, seed)
    if "val" not in source.splits:
        there = " and ".join(source.splits)
        note = f"No validation split: there is only {there} (--val-fraction draws one from train)."
        return replace(source, notes=(*source.notes, note))
    return source


def merged(contents: Contents) -> tuple[Unused, ...]:
    """The accounts, equal places and reasons in one."""
    counts: Counter[tuple[str, str]] = Counter()
    for entry in contents.accounts.unused:
        counts[entry.place, entry.reason] += entry.count
    return tuple(Unused(place, count, reason) for (place, reason), count in sorted(counts.items()))


def find_kind(contents: Contents, kind: str | None, wishes: Wishes) -> Source:
    """The source of a kind, with what it leaves in `contents.accounts`."""
    root, names = contents.root, first_level(contents)
    kind = kind or detect(contents, names, wishes)
    check_wishes(kind, wishes)
    if kind in ("ilsvrc2012", "ilsvrc2010"):
        source = (find_ilsvrc2012 if kind == "ilsvrc2012" else find_ilsvrc2010)(
            root, names, contents.scans, contents.accounts
        )
        contents.account_rest(set(source.table.containers), folders_used=False)
        return source
    if kind == "shards":
        source = find_shards(root, contents.scans)
        contents.account_rest({*source.table.containers, MEAN_IMAGE}, folders_used=False)
        return source
    if kind == "parquet":
        packed = contents.packed(contents.parquets)
        source = find_parquet(root, contents.parquets, packed, contents.accounts, wishes.splits, wishes.class_list)
        contents.account_rest(set(contents.parquets), folders_used=False)
        return source
    if kind == "webdataset":
        tars = contents.sample_tars
        listings = {tar: contents.listings[tar] for tar in tars}
        source = find_webdataset(
            root, listings, contents.packed(tars), contents.accounts, wishes.splits, wishes.class_list
        )
        contents.account_rest(set(tars), folders_used=False)
        return source
    return find_folders(contents, wishes, tars_are_classes=kind == "class-tars")


def find_folders(contents: Contents, wishes: Wishes, tars_are_classes: bool) -> Source:
    tars = sorted([*contents.image_tars, *contents.sample_tars]) if wishes.labels else contents.image_tars
    if tars_are_classes and not tars:
        raise UsageError(f"{contents.root}: holds no tars of images. Leave --source away: the format is detected.")
    folders = list(contents.folders(tars))
    found = [text(path) for path in contents.tree.tables if path.rpartition(b"/")[2] in LABEL_FILES]
    source = find_class_folders(
        contents.root,
        folders,
        tars,
        contents.packed(tars),
        contents.accounts,
        splits=wishes.splits,
        tables=LabelFiles(contents.root, wishes.labels, found),
        class_list=wishes.class_list,
        empty_folders=contents.empty_folders(folders),
        captioned=[number for number, tar in enumerate(tars) if has_companions(contents.listings[tar])],
        tars_are_classes=tars_are_classes,
        seen=unreadable_formats(contents.tree) or " ".join(contents.notes()).replace("Ignored: ", ""),
    )
    contents.account_rest(set(tars), folders_used=True)
    return source


def check_wishes(kind: str, wishes: Wishes) -> None:
    """UsageError where an option has no meaning for the kind of source."""
    given = {"--split": wishes.splits, "--labels": wishes.labels, "--classes": wishes.class_list}
    fits = {
        "class-tars": ("--split", "--labels", "--classes"),
        "folders": ("--split", "--labels", "--classes"),
        "webdataset": ("--split", "--classes"),
        "parquet": ("--split", "--classes"),
    }
    for option, value in given.items():
        if value and option not in fits.get(kind, ()) and not (option == "--classes" and kind == "ilsvrc2012"):
            raise UsageError(
                f"{option}: does not fit a source of the kind {kind}, whose own say counts. Leave it away, or give "
                "another --source."
            )


def first_level(contents: Contents) -> dict[str, bool]:
    """Name -> whether it is a folder, of what lies directly in the source."""
    tree = contents.tree
    names = {path.decode("utf-8", "surrogateescape"): True for path in tree.folders if b"/" not in path}
    files = [*tree.data, *tree.tables]
    names |= {path.decode("utf-8", "surrogateescape"): False for path in files if b"/" not in path}
    return dict(sorted(names.items()))


def detect(contents: Contents, names: dict[str, bool], wishes: Wishes) -> str:
    """The kind of source; UsageError where it can be read as two."""
    root, tree = contents.root, contents.tree
    if b"" in tree.manifests and contents.tars:
        if is_manifest(join(root, MANIFEST)):
            return "shards"
        if WORK in list_folder(root):
            raise UsageError(
                f"{root}: holds shards of alexnet-fast that are not finished. Run the command that began them "
                "again, which finishes them, or give the source of these."
            )
    if not wishes.splits and not wishes.labels:
        if is_ilsvrc2012(names) and not split_in_folders(contents, names) and not unlike_the_challenge(contents):
            return "ilsvrc2012"
        if is_ilsvrc2010(names):
            return "ilsvrc2010"
    if wishes.labels:
        return "folders"
    in_folders = any(folder for folder in tree.images) or any(
        has_class_folders(contents, tar) for tar in contents.image_tars
    )
    readings = {
        "folders": in_folders and "images in folders",
        "webdataset": bool(contents.sample_tars) and f"WebDataset samples in {few(contents.sample_tars)}",
        "parquet": bool(contents.parquets) and f"parquet files ({few(contents.parquets)})",
    }
    found = {kind: what for kind, what in readings.items() if what}
    if "folders" in found and has_train_folder(contents):
        return "folders"
    if len(found) > 1:
        raise UsageError(
            f"{root}: holds {' and '.join(map(str, found.values()))}. Say which are meant: "
            f"{' or '.join(f'--source {kind}' for kind in found)}, or move the others away."
        )
    return next(iter(found), "folders")


def split_in_folders(contents: Contents, names: dict[str, bool]) -> bool:
    """Whether a split whose tar is missing is there as a folder of images or of class tars."""
    folders = {path.split(b"/")[0] for path in contents.tree.images}
    folders |= {path.split(b"/")[0] for path in contents.tree.data if b"/" in path and is_tar(path)}
    said_splits = {what.split for folder in folders if folder and (what := said(folder)) and not what.rest}
    missing = {split for split, tar in TARS_2012.items() if tar not in names}
    wnids = any(re.fullmatch(WNID, text(part)) for path in contents.tree.images for part in path.split(b"/"))
    if "train" in missing and wnids:
        return True
    # The train split as class tars in train/ is what the train tar unpacks to.
    return bool(missing & said_splits) and not (missing == {"train"} and class_tars(contents.root, names))


def unlike_the_challenge(contents: Contents) -> bool:
    """Whether a tar is only called as the challenge's: its images lie in class folders."""
    tars = [tar for tar in contents.tars if tar in TARS_2012.values()]
    inside = [contents.scans.listing(join(contents.root, tar), tar == TARS_2012["train"]).names for tar in tars]
    return any(
        b"/" in name.removeprefix(b"./") and b"!" not in name and not split_of_name(name.rpartition(b"/")[2])
        for names in inside
        for name in names
        if is_image(name.rpartition(b"/")[2])
    )


def has_train_folder(contents: Contents) -> bool:
    """Whether there is a folder of the train split with class folders in it, which no stray tar may hide."""
    return any(
        depth < len(parts) - 1 and (what := said(part)) is not None and not what.rest and what.split == "train"
        for parts in (folder.split(b"/") for folder in contents.tree.images)
        for depth, part in enumerate(parts)
    )


def has_class_folders(contents: Contents, tar: str) -> bool:
    """Whether a tar's images lie in folders, or tell their class by their names, so that it is no tar of samples."""
    images = [name for name in contents.listings[tar].names if is_image(name.rpartition(b"/")[2])]
    return any(b"/" in name.removeprefix(b"./") or b"!" in name or label_of_name(name) for name in images)
