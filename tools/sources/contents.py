"""What lies in a source, sorted by what it can be read as."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.foreign import ARCHIVES, UNREAD_DATA, extension, is_image, is_tar, text
from alexnet_fast.tools.sources.image_folders import (
    Accounts,
    ImageFolder,
    account_files,
    folders_of_tar,
    folders_of_tree,
)
from alexnet_fast.tools.sources.samples import holds_samples
from alexnet_fast.tools.sources.shards import is_manifest
from alexnet_fast.tools.sources.tar_index import Listing, ScanCache
from alexnet_fast.tools.sources.tree import Tree, read_tree
from alexnet_fast.tools.sources.unpack import unpacked_name
from alexnet_fast.tools.storage.filesystem import is_folder, join, list_folder
from alexnet_fast.tools.storage.work_names import WORK

COMPANIONS = re.compile(r"(?i)(devkit|bbox|bounding.?box|patch_images)")
"""In the names of archives that come beside ImageNet's tars and hold no images of their own."""


@dataclass
class Contents:
    """A source's files, and its tars' lists, read when they are first asked for."""

    root: str
    tree: Tree
    scans: ScanCache
    below: bool = True
    """False where the source is one tar, whose name is no part of its images' paths."""
    outputs: list[bytes] = field(default_factory=list)
    """Folders that hold shards of this program."""
    accounts: Accounts = field(default_factory=Accounts)

    @cached_property
    def tars(self) -> list[str]:
        """Below the root, sorted, compressed ones too."""
        return [
            os.fsdecode(path) for path in self.tree.data if is_tar(path.rpartition(b"/")[2]) and not companion(path)
        ]

    @cached_property
    def parquets(self) -> list[str]:
        return [os.fsdecode(path) for path in self.tree.data if path.lower().endswith(b".parquet")]

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """Tar -> its members, those of tars in it too."""
        return {tar: self.scans.listing(join(self.root, tar), True) for tar in self.tars}

    @cached_property
    def sample_tars(self) -> list[str]:
        """The tars of WebDataset samples."""
        return [tar for tar, listing in self.listings.items() if holds_samples(listing)]

    def packed(self, containers: list[str]) -> dict[int, str]:
        """Number of a container that must be unpacked -> the name of what it becomes."""
        return {
            number: unpacked_name(join(self.root, name))
            for number, name in enumerate(containers)
            if name.lower().endswith(".parquet") or self.listings[name].packed
        }

    @cached_property
    def image_tars(self) -> list[str]:
        """The other tars that hold images."""
        samples = set(self.sample_tars)
        return [
            tar
            for tar, listing in self.listings.items()
            if tar not in samples and any(map(is_image_member, listing.names))
        ]

    def folders(self, tars: list[str]) -> Iterator[ImageFolder]:
        """Folders of images on the disk, and in these tars."""
        yield from folders_of_tree(self.tree)
        for number, tar in enumerate(tars):
            yield from folders_of_tar(self.root, tar, number, self.listings[tar], self.accounts, below=self.below)

    def empty_folders(self, folders: list[ImageFolder]) -> list[bytes]:
        """Folders beside those of classes, with nothing in them or below."""
        filled = {b"/".join(folder.real[:depth]) for folder in folders for depth in range(len(folder.real) + 1)}
        filled |= {path[:cut] for path in self.tree.data for cut in range(len(path)) if path[cut : cut + 1] == b"/"}
        parents = {folder.real[:-1] for folder in folders if folder.container < 0 and folder.real}
        empty = self.tree.folders - filled
        return sorted(name for name in empty if tuple(name.split(b"/")[:-1]) in parents)

    def account_rest(self, used: set[str], folders_used: bool) -> None:
        """Put what the source did not take into the accounts.  used: containers that were taken."""
        accounts = self.accounts
        for folder, count in self.tree.hidden.items():
            accounts.add(folder, count, "images in hidden folders, or hidden themselves")
        if not folders_used:
            for loose in folders_of_tree(self.tree):
                accounts.add(loose.where, len(loose.names), "images in folders, beside what was taken")
        rest = [path for path in self.tree.data if os.fsdecode(path) not in used and not companion(path)]
        for tar in [os.fsdecode(path) for path in rest if os.fsdecode(path) in self.tars]:
            self.account_tar(tar)
        account_files(
            self.root, (path for path in rest if os.fsdecode(path) not in self.tars), accounts, reason_of_file
        )

    def account_tar(self, tar: str) -> None:
        """A tar that was not taken, by the images in it where its list is known."""
        if "listings" not in self.__dict__:
            self.accounts.add(tar, 1, "tars beside what was taken")
            return
        images = sum(map(is_image_member, self.listings[tar].names))
        samples = tar in self.sample_tars
        what = (
            "images of WebDataset samples (--source webdataset reads them)"
            if samples
            else "images, beside what was taken"
        )
        self.accounts.add(tar, images, what)
        if not images:
            folders_of_tar(self.root, tar, 0, self.listings[tar], self.accounts)

    def notes(self) -> list[str]:
        notes = self.tree.notes()
        if self.outputs:
            names = few([text(name) for name in self.outputs])
            notes.append(f"Ignored: {counted(len(self.outputs), 'folder')} of shards that this program made ({names}).")
        return notes


def companion(path: bytes) -> bool:
    return bool(COMPANIONS.search(os.fsdecode(path.rpartition(b"/")[2])))


def is_image_member(member: bytes) -> bool:
    return is_image(member[max(member.rfind(b"/"), member.rfind(b"!")) + 1 :])


def reason_of_file(name: bytes) -> str:
    lower = name.lower()
    if lower.endswith(ARCHIVES):
        return "archives; unpack them"
    if lower.endswith(b".parquet"):
        return "parquet files, beside what was taken (--source parquet reads them)"
    if extension(lower) in UNREAD_DATA:
        return f"files of the format {text(extension(lower))}, which is not read"
    return "files that begin like images or archives, but are not called so; rename them"


def read_contents(root: str, exclude: Path | str | None, scans: ScanCache) -> Contents:
    """List a folder or URL, or the one tar or parquet file that `root` is.

    Shards that this program made of the same source may lie in it, and are none of it.  UsageError where there is
    nothing of this name.
    """
    if root.lower().endswith((".tar", ".parquet")) or is_tar(os.fsencode(root)):
        folder, _, name = root.rpartition("/")
        if not is_folder(root):
            there = name in list_folder(folder)
            return Contents(folder, Tree(data=[os.fsencode(name)] if there else []), scans, below=False)
    list_folder(root)  # says what is wrong where it is no folder
    tree = read_tree(root, exclude)
    outputs = [path for path in sorted(tree.manifests) if path and is_output(root, path)]
    for path in outputs:
        remove_below(tree, path)
    return Contents(root, tree, scans, outputs=outputs)


def is_output(root: str, folder: bytes) -> bool:
    """Whether a folder holds finished or unfinished shards of this program."""
    place = join(root, os.fsdecode(folder))
    names = list_folder(place)
    return WORK in names or (MANIFEST in names and is_manifest(join(place, MANIFEST)))


def remove_below(tree: Tree, folder: bytes) -> None:
    """Take a folder and everything in it out of the list."""

    def inside(path: bytes) -> bool:
        return path == folder or path.startswith(folder + b"/")

    for path in [path for path in tree.images if inside(path)]:
        del tree.images[path], tree.sizes[path]
    tree.folders = {path for path in tree.folders if not inside(path)}
    tree.data = [path for path in tree.data if not inside(path)]
    tree.tables = [path for path in tree.tables if not inside(path)]


def unreadable_formats(tree: Tree) -> str | None:
    """What to do where a source holds images in a format that is not read only; None where there is no such file."""
    ends = {text(extension(path.rpartition(b"/")[2])): text(path) for path in tree.data}
    for end, path in ends.items():
        if end == ".arrow":
            return (
                f"{path!r} is of a folder that Hugging Face's save_to_disk wrote. Write it as parquet: "
                "datasets.load_from_disk(FOLDER).to_parquet(FILE)"
            )
        if extension(path.encode()) in ARCHIVES or end.encode() in ARCHIVES:
            return f"{path!r} is an archive; unpack it"
        if end.encode() in UNREAD_DATA:
            return f"{path!r} is of the format {end}, which is not read; write its images as files, tars or parquet"
    return None
