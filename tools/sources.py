"""Where the pictures come from: found by looking."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.picture_table import ClassName, Location, PictureTable, Source, read_bytes
from alexnet_fast.tools.source_folders import find_class_folders

__all__ = ["KINDS", "ClassName", "Location", "PictureTable", "Source", "find_source", "read_bytes"]

KINDS = ("folders",)
"""What `--source` may be."""


def find_source(
    path: Path | str,
    kind: str | None = None,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    exclude: Path | None = None,
    cache: Path | None = None,
) -> Source:
    """Find out what `path` holds and list its pictures.

    kind: one of `KINDS` overrules the looking.  exclude: the output folder, which may lie inside the source.
    cache: a folder to keep the scan of large tars in, so that a second run need not repeat it.
    Raises UsageError, with what was looked for and what was seen, where nothing fits.
    """
    root = Path(path)
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--source {kind}: there is no such kind of source; the kinds are {', '.join(KINDS)}.")
    if not root.exists():
        raise UsageError(f"{root}: there is no such folder. Give the folder that holds the pictures.")
    if not root.is_dir():
        raise UsageError(f"{root}: is a file, not a folder. Give the folder that holds the pictures.")
    return find_class_folders(root, val_fraction=val_fraction, seed=seed, exclude=exclude)
