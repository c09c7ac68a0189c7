"""One shard: a plain ustar tar with its DALI index, as webdataset's `TarWriter(mtime=0)` writes it.

Written out here because importing webdataset imports torch, and sharding must do without.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from alexnet_fast.tools.errors import UserError

BLOCK = tarfile.BLOCKSIZE
"""Bytes; members begin at multiples of it."""

MAX_LABEL = 99_999
"""Labels have five digits."""


def label_text(label: int) -> bytes:
    """The `.cls` member: five ASCII digits, which DALI turns into a number with arithmetic alone."""
    return b"%05d" % label


class ShardWriter:
    """Writes samples into a tar and keeps its index and hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._lines: list[str] = []
        self.num_bytes = 0
        """Written so far."""

    def add(self, stem: str, jpeg: bytes, label: int) -> None:
        """Append one sample: `<stem>.cls`, then `<stem>.jpg`."""
        parts: list[bytes] = []
        entries = []
        offset = self.num_bytes
        for extension, content in (("cls", label_text(label)), ("jpg", jpeg)):
            name = f"{stem}.{extension}"
            entries.append(f"{extension} {offset + BLOCK} {len(content)} {name}")
            padding = bytes(-len(content) % BLOCK)
            parts += (member_header(name, len(content)), content, padding)
            offset += BLOCK + len(content) + len(padding)
        self._write(b"".join(parts))
        self._lines.append(" ".join(entries))

    def close(self) -> None:
        """Write the end of the tar; the file itself stays open."""
        end = self.num_bytes + 2 * BLOCK
        self._write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))

    def _write(self, content: bytes) -> None:
        self._digest.update(content)
        self._file.write(content)
        self.num_bytes += len(content)

    @property
    def samples(self) -> int:
        return len(self._lines)

    @property
    def sha256(self) -> str:
        """Of the bytes written so far, in hex."""
        return self._digest.hexdigest()

    def index(self) -> bytes:
        """DALI's index, version 1.2."""
        return index_bytes(self._lines)


def _blank_header() -> bytes:
    """A member's ustar header without name, size and checksum."""
    member = tarfile.TarInfo()
    member.mode = 0o444
    member.uname = member.gname = "bigdata"  # webdataset's defaults
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    header[_SIZE] = bytes(12)
    header[_CHECKSUM] = b" " * 8  # as it is summed
    return bytes(header)


_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_BLANK = _blank_header()
_BLANK_SUM = sum(_BLANK)


def member_header(name: str, size: int) -> bytes:
    """A member's 512-byte header, as tarfile makes it; tarfile takes ten times as long for it, 3 % of an image's time.

    `name` is ASCII, 100 bytes at most, as stems are.  Raises ValueError where it is longer.
    """
    encoded, digits = name.encode("ascii"), b"%011o" % size
    if len(encoded) > 100 or len(digits) > 11:
        raise ValueError(f"no ustar header holds the name {name!r} with {size} bytes")
    checksum = _BLANK_SUM + sum(encoded) + sum(digits)
    return b"%s%s%s\0%s%06o\0 %s" % (
        encoded,
        _BLANK[len(encoded) : _SIZE.start],
        digits,
        _BLANK[_SIZE.stop : _CHECKSUM.start],
        checksum,
        _BLANK[_CHECKSUM.stop :],
    )


def index_bytes(lines: list[str]) -> bytes:
    """DALI's index, version 1.2: one line a sample, of extension, offset, size, name of each of its members."""
    return "".join(f"{line}\n" for line in [f"v1.2 {len(lines)}", *lines]).encode("ascii")


def index_stems(index: bytes) -> frozenset[str]:
    """The stems of the samples that an index of ours lists."""
    return frozenset(line.split(" ")[3].removesuffix(".cls") for line in index.decode("ascii").splitlines()[1:])


@dataclass(frozen=True)
class Sample:
    """One sample as it lies in a tar."""

    stem: str
    label: int
    jpeg: bytes
    index_line: str


class BrokenShardError(UserError):
    """A tar is not as `ShardWriter` leaves it; the message says where."""


def read_samples(file: IO[bytes]) -> Iterator[Sample]:
    """The samples of a tar in order; BrokenShardError where it is not built as ours are."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            held: tuple[str, bytes, str] | None = None
            for member in tar:
                stem, _, extension = member.name.rpartition(".")
                if not member.isreg():  # asked first: a link is followed, to a KeyError where it leads nowhere
                    raise BrokenShardError(f"member {member.name!r} is no file")
                reader = tar.extractfile(member)
                content = reader.read() if reader else b""
                if len(content) != member.size:
                    raise BrokenShardError(f"member {member.name!r} is cut short")
                entry = f"{extension} {member.offset_data} {member.size} {member.name}"
                if held is None and extension == "cls":
                    held = (stem, content, entry)
                elif held is not None and extension == "jpg" and held[0] == stem:
                    if len(held[1]) != 5 or not held[1].isdigit():
                        raise BrokenShardError(f"member {stem}.cls holds {held[1][:20]!r}, not five digits")
                    yield Sample(stem, int(held[1]), content, f"{held[2]} {entry}")
                    held = None
                else:
                    raise BrokenShardError(f"member {member.name!r} is out of place")
            if held is not None:
                raise BrokenShardError(f"{held[0]}.cls has no .jpg")
    except (tarfile.TarError, ValueError, OverflowError) as error:  # a header's numbers may be any
        raise BrokenShardError(f"is no tar, or is cut short ({error})") from error
