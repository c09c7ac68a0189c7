"""Everything that lies under a folder, listed once: images by folder, and what else there is."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.storage.filesystem import is_url, open_system

IMAGE_EXTENSIONS = frozenset(
    b".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
"""A file with one of these is a image of the source, whatever is in it; what cannot be read is skipped by name."""


def text(name: bytes) -> str:
    """A name for people and for the manifest; bytes that are no UTF-8 show as `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


def is_image(name: bytes) -> bool:
    """By the name alone, so that no file is opened; `._x.jpg` and the like are an operating system's side files."""
    dot = name.rfind(b".")
    return dot > 0 and name[dot:].lower() in IMAGE_EXTENSIONS and not name.startswith(b".")


@dataclass
class Tree:
    """What lies under a folder.  All paths are relative to it, in the file system's own bytes, with `/`."""

    images: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Folder -> the sorted names of the images directly in it; folders without any are not in it."""
    sizes: dict[bytes, array[int]] = field(default_factory=dict)
    """Folder -> its images' sizes in bytes, in the order of `images`."""
    folders: set[bytes] = field(default_factory=set)
    """Every folder below."""
    others: Counter[str] = field(default_factory=Counter)
    """Extension -> number of files that are no images by their name, so that nothing goes unmentioned."""

    hidden: Counter[str] = field(default_factory=Counter)
    """Folder that is hidden -> images anywhere below it."""

    def add(self, folder: bytes, files: dict[bytes, int]) -> None:
        """Take in a folder's files: name -> bytes, which count for images only."""
        images = sorted(name for name in files if is_image(name))
        if images:
            self.images[folder] = images
            self.sizes[folder] = array("q", (files[name] for name in images))
        for name in files:
            if not is_image(name):
                self.others[
                    "hidden" if name.startswith(b".") else Path(text(name)).suffix.lower() or "no extension"
                ] += 1

    def first_level(self, prefix: bytes = b"") -> list[bytes]:
        """Names of the folders directly in `prefix` (empty, or a folder with a slash behind it), sorted."""
        return sorted(
            folder[len(prefix) :]
            for folder in self.folders
            if folder.startswith(prefix) and b"/" not in folder[len(prefix) :]
        )

    def below(self, prefix: bytes) -> dict[bytes, list[bytes]]:
        """`images` of the folders under `prefix`, which is a folder with a slash behind it, or empty for all."""
        return {folder: names for folder, names in self.images.items() if folder and folder.startswith(prefix)}

    def notes(self) -> list[str]:
        notes = []
        if self.hidden:
            notes.append(
                f"Not used: {counted(self.hidden.total(), 'image')} in hidden folders ({few(sorted(self.hidden))})."
            )
        if self.others:
            # Equal counts in one order on every machine: the notes are stored.
            common = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))[:5]
            shown = ", ".join(f"{name} {count:,}" for name, count in common)
            files = counted(self.others.total(), "other file")
            notes.append(f"Not used: {files}, no images by their names ({shown}).")
        return notes


def hidden_part(folder: bytes) -> bytes | None:
    """The topmost folder on a path that is hidden, or that an archiver left; None where there is none."""
    parts = folder.split(b"/")
    depth = next((i for i, name in enumerate(parts, 1) if name.startswith(b".") or name == b"__MACOSX"), None)
    return b"/".join(parts[:depth]) if depth else None


def read_tree(root: str, exclude: Path | str | None = None) -> Tree:
    """List a folder or URL.  `exclude`: a folder or URL that is not entered (the output may lie inside the source)."""
    tree = Tree()
    for folder, files in walk_url(root, exclude) if is_url(root) else walk(os.fsencode(root), exclude):
        hidden = hidden_part(folder)
        if hidden is not None:
            tree.hidden += Counter({text(hidden): sum(map(is_image, files))})
            continue
        if folder:
            tree.folders.add(folder)
        tree.add(folder, files)
    return tree


def walk(root: bytes, exclude: Path | str | None) -> Iterator[tuple[bytes, dict[bytes, int]]]:
    """(folder relative to `root`, files in it with their bytes as `image_size` tells them).

    Links are followed, but never round a circle.
    """
    excluded = os.path.realpath(os.fsencode(exclude)) if exclude else None
    waiting: list[tuple[bytes, tuple[bytes, ...]]] = [(b"", ())]
    while waiting:
        relative, above = waiting.pop()
        path = root + b"/" + relative
        here = (*above, os.path.realpath(path))
        if here[-1] == excluded or here[-1] in above:
            continue
        files = {}
        hidden = hidden_part(relative) is not None  # its images are counted only
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not leads_to_folder(entry):
                        files[entry.name] = 0 if hidden else image_size(entry)
                    else:
                        waiting.append((relative + b"/" + entry.name if relative else entry.name, here))
        except OSError as error:
            if hidden:
                continue
            raise UserError(
                f"{text(path)}: cannot be listed ({error.strerror}). Mend that, or move the folder out of the source."
            ) from error
        yield relative, files


def leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def image_size(entry: os.DirEntry[bytes]) -> int:
    """Bytes of a image, 0 for other files, which are not looked at.

    UserError for a image's name on a broken link, or on a pipe, which would be waited on for ever.
    """
    if not is_image(entry.name):
        return 0
    try:
        regular = entry.is_file()
    except OSError:
        regular = False
    if not regular:
        raise UserError(f"{text(entry.path)}: is a broken link or no regular file. Mend or remove it and run again.")
    return entry.stat().st_size


def walk_url(root: str, exclude: Path | str | None) -> Iterator[tuple[bytes, dict[bytes, int]]]:
    """As `walk`, for a URL; object stores know no empty folders."""
    system, path = open_system(root)
    start = len(path.rstrip("/")) + 1
    excluded = f"{exclude}".rstrip("/") + "/"
    by_folder: dict[bytes, dict[bytes, int]] = {}
    for key, entry in system.find(path, detail=True).items():
        if f"{root.rstrip('/')}/{key[start:]}".startswith(excluded):
            continue
        folder, _, name = key[start:].encode().rpartition(b"/")
        files = by_folder.setdefault(folder, {})
        if name:  # a key that ends in a slash is a folder's, as Amazon's console makes them
            files[name] = int(entry["size"] or 0)
    folders = set(by_folder)
    for folder in by_folder:
        parts = folder.split(b"/")
        folders.update(b"/".join(parts[:depth]) for depth in range(1, len(parts)))
    for folder in sorted(folders):
        yield folder, by_folder.get(folder, {})
