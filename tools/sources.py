"""Where the pictures come from: found by looking."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.picture_table import ClassName, Location, PictureTable, Source, read_bytes
from alexnet_fast.tools.source_folders import find_class_folders
from alexnet_fast.tools.storage import absolute, is_folder, join, list_folder

__all__ = ["KINDS", "ClassName", "Location", "PictureTable", "Source", "find_source", "read_bytes"]

KINDS = ("folders",)
"""What `--source` may be."""

KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
"""Where Kaggle's ImageNet has its train and val folders."""


def find_source(
    path: Path | str,
    kind: str | None = None,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    exclude: Path | None = None,
    cache: Path | None = None,
) -> Source:
    """Find out what `path` (a folder or a URL) holds and list its pictures.

    kind: one of `KINDS` overrules the looking.  exclude: the output folder, which may lie inside the source.
    cache: a folder to keep the scan of large tars in, so that a second run need not repeat it.
    Raises UsageError, with what was looked for and what was seen, where nothing fits.
    """
    root = absolute(path)
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--source {kind}: there is no such kind of source; the kinds are {', '.join(KINDS)}.")
    list_folder(root)
    for below in KAGGLE_FOLDERS:
        if is_folder(join(root, below)):
            root = join(root, below)
    return find_class_folders(root, val_fraction=val_fraction, seed=seed, exclude=exclude)
