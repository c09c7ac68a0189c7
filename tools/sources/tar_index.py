"""Where every member of a tar lies, found in one pass over the headers, so that images are read without unpacking."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sources.byte_strings import ByteStrings
from alexnet_fast.tools.sources.foreign import is_foreign
from alexnet_fast.tools.sources.packed import UNKNOWN_SIZE, ForwardReader, open_packed, packing_of
from alexnet_fast.tools.sources.sample_members import is_label, label_content
from alexnet_fast.tools.storage.filesystem import check_regular, explaining, is_url, open_system, unreadable
from alexnet_fast.tools.storage.output import Output
from alexnet_fast.tools.storage.work_names import WORK

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""

READ = 2 * BLOCK
"""Bytes read at a header: the block behind it holds a small member (a label) whole, or a long name."""

NOWHERE = -1
"""Offset of what is listed in a tar but has no bytes in it: a link that leads out of it, a pipe."""

REGULAR = frozenset((b"0", b"\0", b"7"))
HARD_LINK, SYMBOLIC_LINK, FOLDER = b"1", b"2", b"5"
WITHOUT_CONTENT = frozenset((HARD_LINK, SYMBOLIC_LINK, b"3", b"4", FOLDER, b"6"))
"""Kinds of members behind whose header no content follows, whatever size it says."""

MOST_LINKS = 40
"""Links followed one after another, as Linux does."""

MOVE_AWAY = "Correct that, or move it out of the source."
"""What to do about a tar that cannot be read."""

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> bytes, fewer only at the end of the file."""


class Member(NamedTuple):
    """One file in a tar; of a link, the content is that of the file it leads to."""

    name: bytes
    offset: int
    """Of the content, from the beginning of the (outer) tar, or `NOWHERE`."""
    size: int
    head: bytes
    """The content's first bytes, up to 512."""


class Entry(NamedTuple):
    """One member of any kind."""

    member: Member
    kind: bytes
    target: bytes
    """Of a link: hard, a member's name; symbolic, a path from the folder that the link is in."""


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
    """The fields of a pax header: lines of `length key=value`; ValueError where it is damaged."""
    fields = {}
    while content and content[:1].isdigit():
        length = int(content[: content.index(b" ")])
        if length <= 0:
            raise ValueError(f"a line of {length} bytes in a pax header")
        key, _, value = content[content.index(b" ") + 1 : length - 1].partition(b"=")
        fields[key] = value
        content = content[length:]
    return fields


def scan(read_at: ReadAt, path: str, start: int, end: int) -> Iterator[Member]:
    """The files of the tar that lies between the bytes `start` and `end` of a file: all members but folders.

    A link is the file it leads to, under its own name.  Raises TarError, as `entries`.
    """
    targets: dict[bytes, Entry] | None = None
    for entry in entries(read_at, path, start, end):
        if entry.kind in REGULAR:
            yield entry.member
        elif entry.kind in (HARD_LINK, SYMBOLIC_LINK):
            if targets is None:  # links are rare: only a tar that has one is gone through a second time
                targets = {place(each.member.name): each for each in entries(read_at, path, start, end)}
            yield follow(entry, targets)
        elif entry.kind != FOLDER:
            yield entry.member._replace(offset=NOWHERE, size=0, head=b"")


def is_foreign_path(name: bytes) -> bool:
    """Whether a member, or a folder it lies in, is another program's."""
    return any(map(is_foreign, name.split(b"/")))


def place(name: bytes) -> bytes:
    """A member's name without `./` and `..`."""
    return posixpath.normpath(name)


def follow(link: Entry, targets: Mapping[bytes, Entry]) -> Member:
    """The file that a link leads to, under the link's name; `NOWHERE` where it leads to none in the tar."""
    entry: Entry | None = link
    for _ in range(MOST_LINKS):
        if entry is None or entry.kind in REGULAR:
            break
        folder = posixpath.dirname(entry.member.name) if entry.kind == SYMBOLIC_LINK else b""
        entry = targets.get(place(posixpath.join(folder, entry.target)))
    if entry is None or entry.kind not in REGULAR:
        return Member(link.member.name, NOWHERE, 0, b"")
    return entry.member._replace(name=link.member.name)


def entries(read_at: ReadAt, path: str, start: int, end: int) -> Iterator[Entry]:
    """All members of the tar that lies between the bytes `start` and `end` of a file.

    Takes ustar, GNU (long names) and pax.  Raises TarError, naming `path`, where the tar is cut: inside a member, or
    between two (then the closing zero block is missing, and images would be lost silently).
    """
    position, long_name, long_target, fields = start, b"", b"", dict[bytes, bytes]()
    while True:
        block = read_at(position, READ)
        header, head = block[:BLOCK], block[BLOCK:]
        if position + BLOCK > end or len(header) < BLOCK:
            raise TarError(
                f"{path}: ends at byte {min(end, position + len(header)) - start:,} without a tar's end mark: the copy "
                "is incomplete. Get it again."
            )
        if not any(header):
            return
        if not is_header(header):
            raise TarError(
                f"{path}: no tar header at byte {position:,}; the file is damaged or is no tar. Get it again, or move "
                "it out of the source."
            )
        kind = header[156:157]
        here = f"{path}: the header at byte {position:,}"
        size = content_size(header, fields, here)
        content = position + BLOCK
        if content + size > end:
            raise TarError(
                f"{path}: cut inside a member: {content + size - end:,} bytes are missing at its end. Get it again."
            )
        if kind == b"L":
            long_name = read_at(content, size).rstrip(b"\0")
        elif kind == b"K":
            long_target = read_at(content, size).rstrip(b"\0")
        elif kind == b"x":
            try:
                fields = extended_fields(read_at(content, size))
            except ValueError as error:
                raise TarError(f"{here} is damaged ({error}). Get it again.") from error
        elif kind != b"g":
            name = fields.get(b"path") or long_name or ustar_name(header)
            target = fields.get(b"linkpath") or long_target or header[157:257].split(b"\0", 1)[0]
            # Before ustar, folders were files whose names end in a slash.
            kind = FOLDER if kind == b"\0" and name.endswith(b"/") else kind
            yield Entry(Member(name, content, size, head[:size]), kind, target)
            long_name, long_target, fields = b"", b"", {}
        position = content + -(-size // BLOCK) * BLOCK


def content_size(header: bytes, fields: Mapping[bytes, bytes], what: str) -> int:
    """Bytes that follow a header; TarError, saying `what` is damaged, where it tells none."""
    if header[156:157] in WITHOUT_CONTENT:
        return 0
    try:
        size = int(fields[b"size"]) if b"size" in fields else number(header[124:136])
    except ValueError as error:
        raise TarError(f"{what} is damaged ({error}). Get it again.") from error
    if size < 0:
        raise TarError(f"{what} is damaged (a size of {size}). Get it again.")
    return size


def ustar_name(header: bytes) -> bytes:
    """A member's name from its header alone."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def scan_tar(path: str, nested: bool = False) -> Iterator[Member]:
    """The files of a tar, local or behind a URL; with `nested`, those of the tars in it too (`inner.tar!name`)."""
    with TarBytes(path) as tar:
        yield from scan_opened(tar, nested)


def scan_opened(tar: TarBytes, nested: bool) -> Iterator[Member]:
    for member in scan(tar.read_at, tar.path, 0, tar.size):
        if not nested or not member.name.endswith(b".tar") or member.offset == NOWHERE or is_foreign_path(member.name):
            yield member
        else:
            label = f"{tar.path}!{member.name.decode('utf-8', 'backslashreplace')}"
            for inner in scan(tar.read_at, label, member.offset, member.offset + member.size):
                yield inner._replace(name=member.name + b"!" + inner.name)


class TarBytes:
    """A tar opened for reading here and there; one that is compressed, whatever it is called, is best read onward."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.packed = False
        """Whether it is compressed; its length is `UNKNOWN_SIZE` then, and offsets are those of what is in it."""
        self._open = ExitStack()

    def __enter__(self) -> TarBytes:
        if is_url(self.path):
            system, path = open_system(self.path)
            file = self._open.enter_context(system.open(path, block_size=1 << 24, cache_type="readahead"))
            self.size = int(file.size)

            def read_at(offset: int, size: int) -> bytes:
                file.seek(offset)
                return bytes(file.read(size))

            self.read_at: ReadAt = read_at
        else:
            try:
                check_regular(self.path)
                descriptor = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise unreadable(self.path, error, MOVE_AWAY) from error
            self._open.callback(os.close, descriptor)
            self.size = os.fstat(descriptor).st_size
            # Only headers are read, a hundred kilobytes apart: reading ahead would read the whole tar.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            self.read_at = lambda offset, size: os.pread(descriptor, size, offset)
        if packing_of(self.read_at(0, BLOCK)) is not None:
            reader = ForwardReader(lambda: open_packed(self.path))
            self._open.callback(reader.close)
            self.packed, self.size, self.read_at = True, UNKNOWN_SIZE, reader.read_at
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


class Listing:
    """The members of a tar in columns."""

    def __init__(self, packed: bool = False) -> None:
        self.packed = packed
        """Whether offsets are those of the tar that comes out when the file is unpacked."""
        self.names = ByteStrings()
        self.labels = ByteStrings()
        """What a label beside an image says, as `label_content` gives it; empty for all other members."""
        self.offsets, self.sizes = array("q"), array("q")

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[tuple[bytes, int, int]]:
        return zip(self.names, self.offsets, self.sizes, strict=True)

    def add(self, member: Member, label: bytes) -> None:
        self.names.append(member.name)
        self.labels.append(label)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)


class ScanCache:
    """Lists of tars, kept in the output so that a resumed run need not scan them again.

    New ones are held back until `save` is called, so that a run that is refused leaves nothing behind.
    """

    def __init__(self, output: Output | None) -> None:
        self.output = output
        """None: nothing is kept."""
        self._new: dict[str, Listing] = {}

    def listing(self, path: str, nested: bool) -> Listing:
        """List a tar.  A kept list is used while the tar is the same."""
        key = f"{path}\0{nested}\0{state_of(path)}"
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        name = f"{WORK}/source-scan-2-{digest[:16]}.npz"
        listing = self._new.get(name)
        if listing is None and self.output is not None:
            listing = load_listing(self.output, name)
        if listing is None:
            listing = self._new[name] = new_listing(path, nested)
        return listing

    def save(self) -> None:
        """Keep what was scanned since the last call, and let go of it; the output must be prepared."""
        if self.output is not None:
            with suppress(UserError):  # a scan that cannot be kept is repeated
                for name, listing in self._new.items():
                    save_listing(listing, self.output, name)
        self._new.clear()


def state_of(path: str) -> str:
    """What is another when a file has changed: its size and time, or all that a store tells of it."""
    if is_url(path):
        system, name = open_system(path)
        with explaining(path, "read"):
            return str(system.ukey(name))
    try:
        status = Path(path).stat()
    except OSError as error:
        raise unreadable(path, error, MOVE_AWAY) from error
    return f"{status.st_size}\0{status.st_mtime_ns}"


def new_listing(path: str, nested: bool) -> Listing:
    with TarBytes(path) as tar:
        listing = Listing(tar.packed)
        for member in scan_opened(tar, nested):
            label = b""
            if member.offset != NOWHERE and is_label(member.name, member.size):
                whole = member.size <= len(member.head)
                content = member.head if whole else tar.read_at(member.offset, member.size)
                label = label_content(member.name, content)
            listing.add(member, label)
    return listing


def save_listing(listing: Listing, output: Output, name: str) -> None:
    with output.create(name) as file:
        np.savez(
            file,
            packed=np.array(listing.packed),
            names=np.frombuffer(listing.names.buffer, np.uint8),
            ends=np.frombuffer(listing.names.ends, np.int64),
            labels=np.frombuffer(listing.labels.buffer, np.uint8),
            label_ends=np.frombuffer(listing.labels.ends, np.int64),
            offsets=np.frombuffer(listing.offsets, np.int64),
            sizes=np.frombuffer(listing.sizes, np.int64),
        )


def load_listing(output: Output, name: str) -> Listing | None:
    """A kept list; None where there is none, or one that a power cut damaged: the tar is scanned again then."""
    stored = output.read(name)
    try:
        return parse_listing(stored) if stored else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def parse_listing(stored: bytes) -> Listing:
    """What `save_listing` wrote; any of numpy's and zipfile's errors where it is something else."""
    with np.load(io.BytesIO(stored)) as columns:
        listing = Listing(bool(columns["packed"]))
        listing.names.buffer += columns["names"].tobytes()
        listing.names.ends.frombytes(columns["ends"].tobytes())
        listing.labels.buffer += columns["labels"].tobytes()
        listing.labels.ends.frombytes(columns["label_ends"].tobytes())
        listing.offsets.frombytes(columns["offsets"].tobytes())
        listing.sizes.frombytes(columns["sizes"].tobytes())
    return listing
