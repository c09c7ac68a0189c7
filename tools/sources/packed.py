"""Compressed tars: listed by reading them once onward, and unpacked into the output's work folder for the workers."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.storage.filesystem import is_url, open_file, open_system, unreadable

UNKNOWN_SIZE = 1 << 62
"""Stands for the length of what comes out of a compressed file, until it has been read."""

CHUNK = 1 << 20

_MAGIC: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def packing_of(head: bytes) -> Callable[..., Any] | None:
    """What opens a compressed file, by its first bytes; None where it is none that is read."""
    return next((opener for magic, opener in _MAGIC.items() if head.startswith(magic)), None)


def open_raw(path: str) -> IO[bytes]:
    """A file of a disk or a store; UserError where it cannot be read."""
    if is_url(path):
        system, name = open_system(path)
        return system.open(name, block_size=1 << 24, cache_type="readahead")  # type: ignore[no-any-return]
    try:
        return open_file(path)
    except OSError as error:
        raise unreadable(path, error, "Correct that, or move it out of the source.") from error


class Unpacking:
    """What comes out of a compressed file, with its errors as sentences."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._raw = open_raw(path)
        opener = packing_of(self._raw.read(8))
        if opener is None:
            raise UserError(f"{path}: is not compressed as its name says. Get it again, or move it out of the source.")
        self._raw.seek(0)
        self._stream = opener(self._raw)

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        try:
            return bytes(self._stream.read(size))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise UserError(
                f"{self.path}: is damaged or cut, it cannot be unpacked ({error}). Get it again, or move it out of the "
                "source."
            ) from error

    def close(self) -> None:
        self._stream.close()
        self._raw.close()


def open_packed(path: str) -> Unpacking:
    return Unpacking(path)


class ForwardReader:
    """Reads here and there in a stream that only goes onward; going back begins anew."""

    def __init__(self, opened: Callable[[], Unpacking]) -> None:
        self._opened = opened
        self._stream = opened()
        self._start = 0
        """Place of the buffer in the stream."""
        self._buffer = b""

    def read_at(self, offset: int, size: int) -> bytes:
        """(offset, size) -> bytes, fewer only at the end."""
        if offset < self._start:
            self._stream.close()
            self._stream, self._start, self._buffer = self._opened(), 0, b""
        self._buffer = (
            self._buffer[offset - self._start :] if offset < self._start + len(self._buffer) else self._skip(offset)
        )
        self._start = offset
        while len(self._buffer) < size and (more := self._stream.read(size - len(self._buffer))):
            self._buffer += more
        return self._buffer[:size]

    def _skip(self, offset: int) -> bytes:
        left = offset - self._start - len(self._buffer)
        while left > 0 and (passed := self._stream.read(min(left, CHUNK))):
            left -= len(passed)
        return b""

    def close(self) -> None:
        self._stream.close()


def unpacked(path: str) -> Iterator[bytes]:
    """The bytes that come out of a compressed file."""
    stream = open_packed(path)
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    finally:
        stream.close()
