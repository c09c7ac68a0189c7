"""The list of a source's images, in columns: 1.28 million are some 130 MB, where objects would be a gigabyte."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.dataset_parts import ImageOptions, Unused
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sources.byte_strings import ByteStrings
from alexnet_fast.tools.sources.sample_names import unique_stems
from alexnet_fast.tools.sources.tar_index import ScanCache

CHUNK = 4096
"""Images that are looked at together."""

SPLIT_ORDER = ("train", "val", "test")
"""All splits there can be, in the order in which they are listed and written."""


@dataclass(frozen=True)
class ClassName:
    """One class of a source."""

    name: str
    """The folder's name, or the wnid."""
    words: str
    """For people: ImageNet's name where `name` is a wnid, else `name` itself."""


@dataclass(frozen=True)
class Location:
    """Where an image's bytes are; small, and travels to a worker process."""

    path: str
    """An absolute path, or a URL such as s3://bucket/key."""
    offset: int = 0
    """Bytes before the image."""
    size: int | None = None
    """Bytes of the image; None: to the end of the file."""


def read_bytes(location: Location) -> bytes:
    """The image's bytes as they lie in the source; UserError where they cannot be read (any more)."""
    if "://" in location.path:
        from alexnet_fast.tools.storage.filesystem import read_range

        return read_range(location.path, location.offset, location.size)
    try:
        with Path(location.path).open("rb", buffering=0) as file:
            if location.offset:
                file.seek(location.offset)
            content = file.read(-1 if location.size is None else location.size)
    except OSError as error:
        from alexnet_fast.tools.storage.filesystem import unreadable

        remedy = "It was there when the images were listed: bring it back, or shard what is left into a new --out."
        raise unreadable(location.path, error, remedy) from error
    if location.size is not None and len(content) != location.size:
        raise UserError(
            f"{location.path}: ends before byte {location.offset + location.size}, so the tar was cut or replaced "
            "since its images were listed. Bring it back and run again."
        )
    return content


class ImageTable:
    """Every image of a source, in an order that does not depend on the file system.

    `split` (uint8, an index into the source's `splits`) and `label` (int32, class index) are arrays; the rest is asked
    for by number, 0 <= number < len(table).
    """

    def __init__(self, root: str, containers: Sequence[str] = ()) -> None:
        self.root = root
        """Absolute folder, or URL, that the images or tars lie under."""
        self.containers = tuple(containers)
        """The tars, relative to `root`; empty: images are files of their own."""
        self.split: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self.label: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self.packed: dict[int, str] = {}
        """Number of a container that must be unpacked first -> the name of what it becomes in the work folder."""
        self.unpacked_in = ""
        """The folder or URL where these are, once `unpack` has made them."""
        self._container: npt.NDArray[np.int32] = np.empty(0, np.int32)
        """-1 for images that are files of their own."""
        self._offset: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._size: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._origins = ByteStrings()
        self._stems = ByteStrings()
        self._order: npt.NDArray[np.int64] | None = None
        """Where the strings were not rearranged with the rest: row -> place in `_origins` and `_stems`."""

    def __len__(self) -> int:
        return len(self.label)

    def origin(self, number: int) -> str:
        """For people and the manifest: the path relative to the source, or `file.tar!member`.

        Bytes of a file name that are no UTF-8 show as `\\xff`.
        """
        return self.origin_bytes(number).decode("utf-8", "backslashreplace")

    def stem(self, number: int) -> str:
        """The name inside the shard: [A-Za-z0-9_-]+, unique in the table, the file's own where that is so."""
        return self._stems[self._place(number)].decode("ascii")

    def location(self, number: int) -> Location:
        """Where the image's bytes are."""
        container = int(self._container[number])
        if container < 0:
            return Location(self._join(os.fsdecode(self.origin_bytes(number))))
        path = self._join(self.containers[container])
        if container in self.packed:
            if not self.unpacked_in:
                raise RuntimeError(f"{path} has not been unpacked")
            path = f"{self.unpacked_in}/{self.packed[container]}"
        return Location(path, int(self._offset[number]), int(self._size[number]))

    def packed_bytes(self, container: int) -> int:
        """Bytes of the images in a container that must be unpacked."""
        return int(self._size[self._container == container].sum())

    def origin_bytes(self, number: int) -> bytes:
        """As `origin`, in the file system's own bytes."""
        return self._origins[self._place(number)]

    def _place(self, number: int) -> int:
        return number if self._order is None else int(self._order[number])

    def rearranged(self, order: npt.NDArray[np.int64], split: npt.NDArray[np.uint8]) -> ImageTable:
        """The same images in another order; `split` is in the new one."""
        table = ImageTable(self.root, self.containers)
        table.split, table.label = split, self.label[order]
        table._container, table._offset, table._size = self._container[order], self._offset[order], self._size[order]
        table.packed, table.unpacked_in = self.packed, self.unpacked_in
        table._origins, table._stems = self._origins, self._stems
        table._order = order if self._order is None else self._order[order]
        return table

    def _join(self, relative: str) -> str:
        return f"{self.root.rstrip('/')}/{relative}"

    def update(self, digest: hashlib._Hash) -> None:
        """Feed everything that defines the table, `root` excepted, into a hash.

        Sizes are in it because another source may have the very same names: numbered images in numbered classes.
        """
        for column in (self.split, self.label, self._container, self._offset, self._size, self._order):
            digest.update(b"-" if column is None else np.ascontiguousarray(column).data)
        digest.update("\0".join(self.containers).encode("utf-8", "surrogateescape"))
        digest.update(self._origins.ends)
        digest.update(self._origins.buffer)


class TableBuilder:
    """Collects images one by one and makes the table."""

    def __init__(self, root: str, containers: Sequence[str] = ()) -> None:
        self._table = ImageTable(root, containers)
        self._origins = self._table._origins
        self._split, self._label, self._container = array("B"), array("i"), array("i")
        self._offset, self._size = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._label)

    @property
    def splits(self) -> Sequence[int]:
        """Of the images so far."""
        return self._split

    @property
    def labels(self) -> Sequence[int]:
        """Of the images so far."""
        return self._label

    def add(self, split: int, label: int, origin: bytes, size: int) -> None:
        """An image that is a file of its own, of `size` bytes.

        `origin` is its path relative to the root, as the file system has it.
        """
        self._add(split, label, -1, origin, 0, size)

    def add_member(self, split: int, label: int, container: int, member: bytes, offset: int, size: int) -> None:
        """An image inside tar number `container`; `member` is its name there (`inner.tar!name` where tars nest)."""
        origin = os.fsencode(self._table.containers[container]) + b"!" + member
        self._add(split, label, container, origin, offset, size)

    def _add(self, split: int, label: int, container: int, origin: bytes, offset: int, size: int) -> None:
        self._split.append(split)
        self._label.append(label)
        self._container.append(container)
        self._origins.append(origin)
        self._offset.append(offset)
        self._size.append(size)

    def finish(self) -> ImageTable:
        table = self._table
        # The columns' own memory: copies of 14 M images' would be 350 MB.
        table.split = np.frombuffer(self._split, dtype=np.uint8)
        table.label = np.frombuffer(self._label, dtype=np.int32)
        table._size = np.frombuffer(self._size, dtype=np.int64)
        table._container = np.frombuffer(self._container, dtype=np.int32)
        table._offset = np.frombuffer(self._offset, dtype=np.int64)
        table._stems = ByteStrings(unique_stems(self._origins, _OffsetsInTars(table._container, table._offset)))
        return table


@dataclass(frozen=True)
class _OffsetsInTars:
    """Each image's offset, None where it is a file of its own: made as they are asked for."""

    container: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]

    def __iter__(self) -> Iterator[int | None]:
        for start in range(0, len(self.offset), CHUNK):
            part = slice(start, start + CHUNK)
            pairs = zip(self.container[part].tolist(), self.offset[part].tolist(), strict=True)
            yield from (offset if container >= 0 else None for container, offset in pairs)


@dataclass(frozen=True)
class Source:
    """Images with labels and splits, wherever they came from."""

    kind: str
    """What `--source` calls it."""
    description: str
    """One line for people."""
    classes: tuple[ClassName, ...]
    """In index order."""
    splits: tuple[str, ...]
    """As far as they are there, in `SPLIT_ORDER`."""
    table: ImageTable
    notes: tuple[str, ...] = ()
    """What a user should know: no validation split, files that were no images."""
    warnings: tuple[str, ...] = ()
    """What may be wrong: a class that is called as a split, classes without images, numbers that are no indices."""
    unused: tuple[Unused, ...] = ()
    """What may be data and is not sharded."""
    label_source: str = ""
    """Where the labels come from."""
    stored: ImageOptions | None = None
    """Of shards that this program made: the options that their JPEGs were made with."""
    scans: ScanCache | None = None
    """What took long to find, to be kept beside the output once it is sure that it is this source's."""

    def fingerprint(self) -> str:
        """Sha256 over the list of images: names, places, sizes, labels, splits, classes, but not its own path."""
        digest = hashlib.sha256(self.kind.encode())
        digest.update("\0".join(entry.name for entry in self.classes).encode("utf-8", "surrogateescape"))
        digest.update("\0".join(self.splits).encode())
        self.table.update(digest)
        return digest.hexdigest()
