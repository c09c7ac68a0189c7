"""Folders of images, on the disk and inside tars alike: a tar counts as a folder that is called as the tar."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from alexnet_fast.tools.dataset_parts import Unused
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sources.foreign import (
    could_be_data,
    is_foreign,
    is_hidden,
    is_image,
    is_no_data,
    looks_like_data,
    text,
    without_tar,
)
from alexnet_fast.tools.sources.splits import Path, is_without_classes, said
from alexnet_fast.tools.sources.table import Location, read_bytes
from alexnet_fast.tools.sources.tar_index import NOWHERE, Listing
from alexnet_fast.tools.sources.tree import Tree, foreign_kind
from alexnet_fast.tools.storage.filesystem import is_url, join, read_range

HEAD = 512
"""Bytes of a file that are looked at where its name does not say what it is."""

_NUMBERED = re.compile(rb"(?:.*[-_.])?\d+")
"""The name of one tar of many, which is no class."""

_NESTED = re.compile(rb"\.tar!", re.IGNORECASE)


@dataclass
class ImageFolder:
    """The images that lie directly in one folder."""

    path: Path
    """Below the source, tars without their endings."""
    real: Path
    """The same with the endings."""
    prefix: bytes
    """What stands before a name in an image's origin: `train/dog/`, or inside a tar `dog/` or `n01440764.tar!`."""
    container: int = -1
    """Number of the tar in the list of containers; -1: the images are files of their own."""
    tar_depth: int = -1
    """Place of the tar's name in `path`; -1 where there is none."""
    names: list[bytes] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    """In the tar, as `sizes`; empty for files of their own."""

    @property
    def where(self) -> str:
        """For people: `train/dog`, or `imagenet.tar!train/dog`."""
        if self.container < 0:
            return text(self.prefix.rstrip(b"/")) or "the source itself"
        tar = b"/".join(self.real[: self.tar_depth + 1])
        inside = self.prefix.rstrip(b"/!")
        return text(tar + b"!" + inside if inside else tar)

    @property
    def class_path(self) -> Path:
        """`path`; the name of a numbered tar that holds folders and says no split is left empty: it is one of many."""
        depth = self.tar_depth
        inside = self.path[depth + 1 :]
        if depth >= 0 and not is_without_classes(inside) and _NUMBERED.fullmatch(self.path[depth]):
            return self.path if said(self.path[depth]) else (*self.path[:depth], b"", *inside)
        return self.path


@dataclass
class Accounts:
    """What was found and is not used, by place."""

    unused: list[Unused] = field(default_factory=list)

    def add(self, place: str, count: int, reason: str) -> None:
        if count:
            self.unused.append(Unused(place, count, reason))


def folders_of_tree(tree: Tree) -> Iterator[ImageFolder]:
    """Those on the disk."""
    for folder in sorted(tree.images):
        path = tuple(folder.split(b"/")) if folder else ()
        prefix = folder + b"/" if folder else b""
        yield ImageFolder(path, path, prefix, names=tree.images[folder], sizes=tree.sizes[folder])


def folders_of_tar(
    root: str, tar: str, container: int, listing: Listing, accounts: Accounts, *, below: bool = True
) -> list[ImageFolder]:
    """Those inside a tar, with `tar` its path below the source; what is in it besides goes to `accounts`.

    below: whether the tar's own name is a part of the folders' paths; not where the tar is the source.
    """
    base = tuple(tar.encode("utf-8", "surrogateescape").split(b"/"))
    found: dict[bytes, ImageFolder | None] = {}
    counts: dict[str, Counter[str]] = {"foreign": Counter(), "hidden": Counter(), "lost": Counter(), "data": Counter()}
    for number, (member, offset, size) in enumerate(listing):
        cut = folder_end(member)
        prefix, name = member[:cut], member[cut:]
        if prefix not in found:
            found[prefix] = new_folder(base, prefix, container, below)
        folder = found[prefix]
        if folder is None or is_foreign(name):
            parts = [part for part in parts_of(prefix) if is_foreign(part) or is_hidden(part)]
            kind = "foreign" if is_foreign(name) or any(map(is_foreign, parts)) else "hidden"
            counts[kind][foreign_kind(name)] += kind == "foreign" or is_image(name)
        elif is_image(name) and offset == NOWHERE:
            counts["lost"][text(member)] += 1
        elif is_image(name):
            folder.names.append(name)
            folder.offsets.append(offset)
            folder.sizes.append(size)
        elif is_hidden(name) and is_image(name.lstrip(b".")):
            counts["hidden"][text(name)] += 1
        elif offset != NOWHERE and not is_no_data(name) and is_data_member(root, tar, listing, number, name):
            counts["data"][text(member)] += 1
    accounts.add(tar, counts["hidden"].total(), "images that are hidden by their names, or in hidden folders")
    accounts.add(tar, counts["lost"].total(), "images without bytes in the tar: links that lead out of it, or no files")
    accounts.add(tar, counts["data"].total(), f"{'files'} that may be data and are not read: {some(counts['data'])}")
    return [folder for folder in found.values() if folder is not None and folder.names]


def folder_end(member: bytes) -> int:
    """Where a member's own name begins, behind its folders and the tars in the tar."""
    nested = max((match.end() for match in _NESTED.finditer(member)), default=0)
    return max(member.rfind(b"/") + 1, nested)


def parts_of(prefix: bytes) -> list[bytes]:
    """The folders of a member, with tars in the tar as folders; `.` and `..` lead nowhere else."""
    return [part for part in re.split(rb"[/!]" if b"!" in prefix else b"/", prefix) if part not in (b"", b".", b"..")]


def new_folder(base: Path, prefix: bytes, container: int, below: bool) -> ImageFolder | None:
    """A folder inside a tar; None where it is another program's, or hidden."""
    inside = parts_of(prefix)
    if any(is_foreign(part) or is_hidden(part) for part in inside):
        return None
    real = (*(base if below else ()), *inside)
    own = base[-1:] if below else ()
    path = (*base[:-1], *map(without_tar, own)) if below else ()
    return ImageFolder(
        (*path, *(without_tar(part) if b"!" in prefix else part for part in inside)),
        real,
        prefix,
        container,
        len(base) - 1 if below else -1,
    )


def is_data_member(root: str, tar: str, listing: Listing, number: int, name: bytes) -> bool:
    """Whether a member that is no image by its name is data all the same."""
    if could_be_data(name) or listing.packed:
        return True
    try:
        size = min(HEAD, listing.sizes[number])
        return looks_like_data(read_bytes(Location(join(root, tar), listing.offsets[number], size)))
    except UserError:
        return True


def account_files(root: str, files: Iterable[bytes], accounts: Accounts, reason: Callable[[bytes], str]) -> None:
    """Files that are not used and may be data: archives, unread formats, and images by their content."""
    for path in files:
        name = path.rpartition(b"/")[2]
        if could_be_data(name) or holds_data(join(root, path.decode("utf-8", "surrogateescape"))):
            accounts.add(text(path), 1, reason(name))


def holds_data(path: str) -> bool:
    """Whether a file begins like an image or an archive, or cannot be read."""
    try:
        if is_url(path):
            return looks_like_data(read_range(path, 0, HEAD))
        with FilePath(path).open("rb", buffering=0) as file:
            return looks_like_data(file.read(HEAD))
    except (OSError, UserError):
        return True


def some(names: Counter[str]) -> str:
    """The first few names of many, in order."""
    first = sorted(names)[:3]
    return ", ".join(map(repr, first)) + (" and more" if len(names) > 3 else "")
