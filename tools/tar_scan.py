"""Where every member of a tar lies, found in one pass over the headers, so that pictures are read without unpacking."""

from __future__ import annotations

import hashlib
import os
import zipfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.picture_table import ByteStrings
from alexnet_fast.tools.storage import is_url, open_system

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""

READ = 2 * BLOCK
"""Bytes read at a header: the block behind it holds a small member (a label) whole, or a long name."""

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> bytes, fewer only at the end of the file."""


class Member(NamedTuple):
    """One regular file in a tar."""

    name: bytes
    offset: int
    """Of the content, from the beginning of the (outer) tar."""
    size: int
    head: bytes
    """The content's first bytes, up to 512."""


class TarError(UserError):
    """The tar is cut or is none."""


def number(field: bytes) -> int:
    """A number in a header: octal text, or base 256 where the first bit is set (GNU's way for large files)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def is_header(block: bytes) -> bool:
    """Whether the checksum holds: the sum of all bytes, its own eight taken as spaces."""
    try:
        return len(block) == BLOCK and sum(block) - sum(block[148:156]) + 8 * 32 == number(block[148:156])
    except ValueError:
        return False


def extended_fields(content: bytes) -> dict[bytes, bytes]:
    """The fields of a pax header: lines of `length key=value`."""
    fields = {}
    while content and content[:1].isdigit():
        length = int(content[: content.index(b" ")])
        key, _, value = content[content.index(b" ") + 1 : length - 1].partition(b"=")
        fields[key] = value
        content = content[length:]
    return fields


def scan(read_at: ReadAt, path: str, start: int, end: int) -> Iterator[Member]:
    """The regular files of the tar that lies between the bytes `start` and `end` of a file.

    Takes ustar, GNU (long names) and pax.  Raises TarError, naming `path`, where the tar is cut: inside a member, or
    between two (then the closing zero block is missing, and pictures would be lost silently).
    """
    position, long_name, fields = start, b"", dict[bytes, bytes]()
    while True:
        block = read_at(position, READ)
        header, head = block[:BLOCK], block[BLOCK:]
        if position + BLOCK > end:
            raise TarError(
                f"{path}: ends at byte {end - start:,} without a tar's end mark: the copy is incomplete. Get it again."
            )
        if not any(header):
            return
        if not is_header(header):
            raise TarError(f"{path}: no tar header at byte {position:,}; the file is damaged or is no tar.")
        kind = header[156:157]
        size = int(fields[b"size"]) if b"size" in fields else number(header[124:136])
        content = position + BLOCK
        if content + size > end:
            raise TarError(
                f"{path}: cut inside a member: {content + size - end:,} bytes are missing at its end. Get it again."
            )
        if kind == b"L":
            long_name = read_at(content, size).rstrip(b"\0")
        elif kind == b"x":
            fields = extended_fields(read_at(content, size))
        elif kind not in b"gK":
            if kind in (b"0", b"\0", b"7"):
                yield Member(fields.get(b"path") or long_name or ustar_name(header), content, size, head[:size])
            long_name, fields = b"", {}
        position = content + -(-size // BLOCK) * BLOCK


def ustar_name(header: bytes) -> bytes:
    """A member's name from its header alone."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def scan_tar(path: str, nested: bool = False) -> Iterator[Member]:
    """The regular files of a tar, local or behind a URL; with `nested`, those of the tars in it (`inner.tar!name`)."""
    with TarBytes(path) as tar:
        for member in scan(tar.read_at, path, 0, tar.size):
            if not nested:
                yield member
            elif member.name.endswith(b".tar"):
                label = f"{path}!{member.name.decode('utf-8', 'backslashreplace')}"
                for inner in scan(tar.read_at, label, member.offset, member.offset + member.size):
                    yield inner._replace(name=member.name + b"!" + inner.name)


class TarBytes:
    """A tar opened for reading here and there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> TarBytes:
        if is_url(self.path):
            system, path = open_system(self.path)
            file = system.open(path, block_size=1 << 24, cache_type="readahead")
            self.size = int(file.size)

            def read_at(offset: int, size: int) -> bytes:
                file.seek(offset)
                return bytes(file.read(size))

            self.read_at: ReadAt = read_at
            self._close = file.close
            return self
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}).") from error
        self.size = os.fstat(descriptor).st_size
        # Only headers are read, a hundred kilobytes apart: reading ahead would read the whole tar.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self.read_at = lambda offset, size: os.pread(descriptor, size, offset)
        self._close = lambda: os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class Listing:
    """The members of a tar in columns."""

    def __init__(self) -> None:
        self.names = ByteStrings()
        self.offsets, self.sizes = array("q"), array("q")

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[tuple[bytes, int, int]]:
        return zip(self.names, self.offsets, self.sizes, strict=True)

    def add(self, member: Member) -> None:
        self.names.append(member.name)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)


def cached_listing(path: str, nested: bool, cache: Path | None) -> Listing:
    """List a tar.  In the folder `cache` the list is kept, and used while the tar's size and time are the same."""
    if cache is None or is_url(path):
        return new_listing(path, nested)
    status = Path(path).stat()
    key = f"{path}\0{nested}\0{status.st_size}\0{status.st_mtime_ns}"
    kept = cache / f"source-scan-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.npz"
    listing = load_listing(kept)
    if listing:
        return listing
    listing = new_listing(path, nested)
    with suppress(OSError):  # a scan that cannot be kept is repeated
        save_listing(listing, kept)
    return listing


def new_listing(path: str, nested: bool) -> Listing:
    listing = Listing()
    for member in scan_tar(path, nested):
        listing.add(member)
    return listing


def save_listing(listing: Listing, file: Path) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            np.savez(
                stream,
                names=np.frombuffer(listing.names.buffer, np.uint8),
                ends=np.frombuffer(listing.names.ends, np.int64),
                offsets=np.frombuffer(listing.offsets, np.int64),
                sizes=np.frombuffer(listing.sizes, np.int64),
            )
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def load_listing(file: Path) -> Listing | None:
    """A kept list; None where there is none, or one that a power cut damaged: the tar is scanned again then."""
    try:
        return parse_listing(file)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def parse_listing(file: Path) -> Listing:
    """What `save_listing` wrote; any of numpy's and zipfile's errors where it is something else."""
    listing = Listing()
    with np.load(file) as columns:
        listing.names.buffer += columns["names"].tobytes()
        listing.names.ends.frombytes(columns["ends"].tobytes())
        listing.offsets.frombytes(columns["offsets"].tobytes())
        listing.sizes.frombytes(columns["sizes"].tobytes())
    return listing
