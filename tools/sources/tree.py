"""Everything that lies under a folder, listed once: images by folder, containers of images, and what else there is."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.foreign import (
    could_be_data,
    extension,
    is_foreign,
    is_hidden,
    is_image,
    is_no_data,
    text,
    unfinished,
)
from alexnet_fast.tools.storage.filesystem import is_url, open_system, unreadable
from alexnet_fast.tools.storage.work_names import WORK

TABLES = (b".csv", b".tsv", b".txt", b".jsonl")
MOST_TABLES = 1000
"""Tables remembered by name; YOLO has one for every image."""


@dataclass
class Tree:
    """What lies under a folder.  All paths are relative to it, in the file system's own bytes, with `/`."""

    images: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Folder -> the sorted names of the images directly in it; folders without any are not in it."""
    sizes: dict[bytes, array[int]] = field(default_factory=dict)
    """Folder -> its images' sizes in bytes, in the order of `images`."""
    folders: set[bytes] = field(default_factory=set)
    """Every folder below."""
    data: list[bytes] = field(default_factory=list)
    """Sorted paths of containers of images, and of files whose names do not say what they are."""
    tables: list[bytes] = field(default_factory=list)
    """Sorted paths of texts and tables, which may hold labels."""
    others: Counter[str] = field(default_factory=Counter)
    """Extension -> number of files that are no data by their names, so that nothing goes unmentioned."""
    foreign: Counter[str] = field(default_factory=Counter)
    """Name of another program's files or folders -> how often it is there."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Hidden folder -> images anywhere below it."""
    manifests: set[bytes] = field(default_factory=set)
    """Folders that hold a dataset.json, or this program's unfinished work: they may be its shards."""

    def add(self, folder: bytes, files: dict[bytes, int]) -> None:
        """Take in a folder's files: name -> bytes, which count for images only."""
        images = sorted(name for name in files if is_image(name))
        if images:
            self.images[folder] = images
            self.sizes[folder] = array("q", (files[name] for name in images))
        for name in files:
            path = folder + b"/" + name if folder else name
            if name == MANIFEST.encode():
                self.manifests.add(folder)
            if is_image(name):
                continue
            if is_foreign(name):
                self.foreign[foreign_kind(name)] += 1
            elif is_hidden(name):
                if is_image(name.lstrip(b".")):
                    self.hidden[text(folder) or "the source itself"] += 1
                self.others["hidden"] += 1
            elif could_be_data(name) or not is_no_data(name):
                self.data.append(path)
            else:
                self.others[text(extension(name)) or "no extension"] += 1
                if extension(name) in TABLES and len(self.tables) < MOST_TABLES:
                    self.tables.append(path)

    def notes(self) -> list[str]:
        """What is there besides data."""
        notes = []
        if self.foreign:
            shown = few(sorted(self.foreign))
            notes.append(f"Ignored: {counted(self.foreign.total(), 'file or folder', 'files and folders')} that other "
                         f"programs left ({shown}).")  # fmt: skip
        if self.others:
            # Equal counts in one order on every machine: the notes are stored.
            common = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))[:5]
            shown = ", ".join(f"{name} {count:,}" for name, count in common)
            files = counted(self.others.total(), "other file")
            notes.append(f"Ignored: {files}, no images by their names ({shown}).")
        return notes


def foreign_kind(name: bytes) -> str:
    """What a foreign file is counted under: a Mac leaves one `._NAME` for every file."""
    return "._*" if name.startswith(b"._") else text(name)


def read_tree(root: str, exclude: Path | str | None = None) -> Tree:
    """List a folder or URL.  `exclude`: a folder or URL that is not entered (the output may lie inside the source).

    UserError where a folder cannot be listed, where a link is broken, and where a download is not finished.
    """
    tree = Tree()
    for folder, files in walk_url(root, exclude) if is_url(root) else walk(os.fsencode(root), exclude):
        parts = folder.split(b"/")
        foreign = next((part for part in parts if is_foreign(part)), None)
        if foreign is not None:
            tree.foreign[foreign_kind(foreign)] += is_foreign(parts[-1])
            continue
        depth = next((depth for depth, part in enumerate(parts, 1) if is_hidden(part)), None)
        if depth is not None:
            if parts[-1] == WORK.encode():
                tree.manifests.add(b"/".join(parts[:-1]))
            tree.hidden += Counter({text(b"/".join(parts[:depth])): sum(map(is_image, files))})
            continue
        if folder:
            tree.folders.add(folder)
        for name in files:
            problem = unfinished(name)
            if problem and not is_foreign(name):
                raise UserError(f"{root}/{text(folder + b'/' if folder else b'')}{text(name)}: {problem}")
        tree.add(folder, files)
    tree.data.sort()
    tree.tables.sort()
    return tree


def walk(root: bytes, exclude: Path | str | None) -> Iterator[tuple[bytes, dict[bytes, int]]]:
    """(folder relative to `root`, files in it with their bytes as `size_of` gives them).

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
        parts = relative.split(b"/")
        aside = any(is_foreign(part) or is_hidden(part) for part in parts)  # its images are counted only
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not leads_to_folder(entry):
                        files[entry.name] = 0 if aside else size_of(entry)
                    elif not any(map(is_foreign, parts)):
                        waiting.append((relative + b"/" + entry.name if relative else entry.name, here))
        except OSError as error:
            if aside:
                continue
            remedy = "Correct that, or move the folder out of the source."
            raise unreadable(text(path), error, remedy) from error
        yield relative, files


def leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def size_of(entry: os.DirEntry[bytes]) -> int:
    """Bytes of an image, 0 for other files, which are not looked at.

    UserError for a broken link, which may have led to an image or to a folder of them, and for an image's name on a
    pipe, which would be waited on for ever.
    """
    image = is_image(entry.name)
    link = not image and entry.is_symlink() and not is_no_data(entry.name) and not is_foreign(entry.name)
    if not image and not link:
        return 0
    try:
        regular = entry.is_file()
    except OSError:
        regular = False
    if not regular and (image or not Path(os.fsdecode(entry.path)).exists()):
        raise UserError(f"{text(entry.path)}: is a broken link or no regular file. Repair or remove it and run again.")
    return entry.stat().st_size if image else 0


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
