"""Where the images come from: found by looking."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.sharding.tar_writer import MAX_LABEL
from alexnet_fast.tools.sources.class_tars import find_class_tars, is_class_tars
from alexnet_fast.tools.sources.folders import find_class_folders
from alexnet_fast.tools.sources.ilsvrc import find_ilsvrc2010, find_ilsvrc2012, is_ilsvrc2010, is_ilsvrc2012
from alexnet_fast.tools.sources.table import ClassName, ImageTable, Location, Source, read_bytes
from alexnet_fast.tools.sources.tar_index import ScanCache
from alexnet_fast.tools.sources.validation_split import check_fraction, draw_validation
from alexnet_fast.tools.sources.webdataset import find_webdataset, is_webdataset
from alexnet_fast.tools.storage.filesystem import absolute, is_folder, is_url, join, list_folder
from alexnet_fast.tools.storage.output import Output

__all__ = ["KINDS", "ClassName", "ImageTable", "Location", "Source", "find_source", "read_bytes"]

KINDS = ("class-tars", "folders", "ilsvrc2010", "ilsvrc2012", "webdataset")
"""What `--source` may be."""

KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
"""Where Kaggle's ImageNet has its train and val folders."""


def find_source(
    path: Path | str,
    kind: str | None = None,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    exclude: Path | str | None = None,
    cache: Output | None = None,
) -> Source:
    """Find out what `path` (a folder, a tar, or a URL) holds and list its images.

    kind: one of `KINDS` overrules the looking.  val_fraction: draw a `val` split out of train, seeded.
    exclude: the output folder or URL, which may lie inside the source and is never looked into.
    cache: the output, to keep the scan of large tars in, so that a second run need not repeat it; it is written when
    the source's `scans` are saved.
    Raises UsageError, with what was looked for and what was seen, where nothing fits.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--source {kind}: there is no such kind of source; the kinds are {', '.join(KINDS)}.")
    if val_fraction is not None:
        check_fraction(val_fraction)  # before tars are scanned, which takes minutes
    if str(path) == "":
        raise UsageError("SOURCE is empty, which would be the folder that you are in. Give a folder, a tar or a URL.")
    root = absolute(path)
    if root.endswith(".tar") and not is_folder(root):
        root, _, name = root.rpartition("/")
        names = {name: False} if name in list_folder(root) else {}
    else:
        names = without_output(root, list_folder(root), exclude)
    scans = ScanCache(cache)
    source = replace(find_kind(root, names, kind or detect(root, names), exclude, scans), scans=scans)
    if not len(source.table):
        raise UsageError(f"{root}: no images in it. {' '.join(source.notes)} Give the folder that holds them.")
    if len(source.classes) > MAX_LABEL + 1:
        raise UsageError(
            f"{root}: has {len(source.classes):,} classes; there may be {MAX_LABEL + 1:,}. Give a part of them."
        )
    if val_fraction is not None:
        return draw_validation(source, val_fraction, seed)
    if "val" not in source.splits:
        there = " and ".join(source.splits)
        note = f"No validation split: only {there} is sharded (--val-fraction draws one out of train)."
        return replace(source, notes=(*source.notes, note))
    return source


def without_output(root: str, names: dict[str, bool], exclude: Path | str | None) -> dict[str, bool]:
    """What lies in the source besides the output: our own tars would be found as a WebDataset."""
    if exclude is None:
        return names
    place = real_place(exclude)
    return {name: folder for name, folder in names.items() if not folder or real_place(join(root, name)) != place}


def real_place(path: Path | str) -> str:
    """One name for a folder, however it was reached."""
    return absolute(path) if is_url(path) else os.path.realpath(path)


def detect(root: str, names: dict[str, bool]) -> str:
    """The kind of source, by the names in its folder."""
    if is_ilsvrc2012(root, names):
        return "ilsvrc2012"
    if is_ilsvrc2010(root, names):
        return "ilsvrc2010"
    if is_class_tars(root, names):
        return "class-tars"
    if is_webdataset(root, names):
        return "webdataset"
    return "folders"


def find_kind(root: str, names: dict[str, bool], kind: str, exclude: Path | str | None, scans: ScanCache) -> Source:
    if kind == "ilsvrc2012":
        return find_ilsvrc2012(root, names, scans)
    if kind == "ilsvrc2010":
        return find_ilsvrc2010(root, names, scans)
    if kind == "class-tars":
        return find_class_tars(root, names, scans)
    if kind == "webdataset":
        return find_webdataset(root, names)
    for below in KAGGLE_FOLDERS:
        if is_folder(join(root, below)):
            return find_class_folders(join(root, below), exclude)
    return find_class_folders(root, exclude)
