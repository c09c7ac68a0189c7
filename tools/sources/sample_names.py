"""Safe, unique names for the images inside the shards.

A space in a member's name breaks DALI's index, a dot splits its components, and equal names join two samples into one.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

SAFE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\Z")
"""What a stem may be as it is: with `.jpg` behind it, well inside ustar's 100 bytes; no leading `-` or `__`,
which command lines and webdataset give a meaning."""

_LIKE_MADE = re.compile(rb"-[0-9a-f]{16}\Z")
"""The end of a made name; a file may be called so by itself, after it came out of shards for one."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]+")


def own_stem(origin: bytes, in_tar: bool) -> bytes:
    """The file's own name without folders and without its last extension."""
    name = origin[origin.rfind(b"/") + 1 :]
    if in_tar:
        name = name[name.rfind(b"!") + 1 :]
    dot = name.rfind(b".")
    return name[:dot] if dot > 0 else name


def made_stem(own: bytes, identity: bytes) -> bytes:
    """A safe stem for an unsafe or repeated name: what is readable of it, and 64 bits of its identity's hash."""
    readable = _UNSAFE.sub(b"_", own).lstrip(b"_-")[:40] or b"image"
    return readable + b"-" + hashlib.blake2b(identity, digest_size=8).hexdigest().encode()


def are_repeated(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """(N,): whether another of N keys is equal."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    equal = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(keys), dtype=bool)
    repeated[order[1:][equal]] = True
    repeated[order[:-1][equal]] = True
    return repeated


def unique_stems(origins: Iterable[bytes], offsets: Iterable[int | None]) -> Iterator[bytes]:
    """One stem for every origin: the file's own where it is safe and no other image has it, else a made one.

    The result does not depend on the images' order.  `offsets` are those of images in tars, where one tar may hold two
    members of the same name, which they tell apart; None for files of their own.  Both are gone through several times.
    """
    digests = bytearray()
    like_made: set[bytes] = set()
    for origin, offset in zip(origins, offsets, strict=True):
        own = own_stem(origin, offset is not None)
        digests += hashlib.blake2b(own, digest_size=8).digest()
        if _LIKE_MADE.search(own):
            like_made.add(own)
    repeated = are_repeated(np.frombuffer(digests, dtype=np.uint64))
    del digests
    taken: set[bytes] = set()
    """Names that files have by themselves, and others get."""

    def stems() -> Iterator[bytes]:
        for number, (origin, offset) in enumerate(zip(origins, offsets, strict=True)):
            own = own_stem(origin, offset is not None)
            if not repeated[number] and own not in taken and SAFE.match(own):
                yield own
            else:
                identity = origin if offset is None else origin + b"!%d" % offset
                yield made_stem(own, identity)

    while like_made:
        counts = Counter(stem for stem in stems() if stem in like_made)
        twice = {stem for stem, count in counts.items() if count > 1}
        if not twice:
            break
        taken |= twice
    return stems()
