"""JPEGs decoded strictly: what libjpeg only warns of, and Pillow keeps to itself, makes an image damaged.

libjpeg continues where the data are damaged or end early, with gray or shifted blocks, and warns.  Its warnings are:

- `premature end of data segment`, `bad Huffman code`, `Premature end of JPEG file` and others: damage;
- `N extraneous bytes before marker`: harmless where the bytes stand between header segments, or are padding in front of
  a marker (zeros, text); damage where they are image data that no pixel was left for, which is what a decoder that lost
  its place in the data ends with.

Only the first warning has its text, so that harmless bytes are removed and the rest is decoded again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import simplejpeg

MOST_REPAIRS = 16
"""Places with foreign bytes in one file; more are damage."""

PREFETCHED = 16
"""Bytes of the data that libjpeg may have read ahead, and does not count as extraneous; at most 8 in practice."""

UNUSUAL = "Could not determine subsampling level"
"""In TurboJPEG's message."""

SOS, EOI = 0xDA, 0xD9
RESTARTS = range(0xD0, 0xD8)
EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")

Pixels = npt.NDArray[np.uint8]


class UnusualSubsamplingError(Exception):
    """The channels' sizes are in a relation that TurboJPEG does not know; libjpeg itself, and Pillow, read any."""


class DamagedJpegError(Exception):
    """The data cannot be decoded to the end; the message is libjpeg's."""


def decode_strictly(content: bytes, colors: str) -> tuple[Pixels, int]:
    """(pixels, number of foreign bytes that were ignored) of a JPEG.

    colors: "RGB", or "CMYK" for a JPEG of four channels.  The pixels are (H, W, 3 or 4).  Raises DamagedJpegError,
    UnusualSubsamplingError.
    """
    cleaned = content
    for _ in range(MOST_REPAIRS):
        pixels, warning = _decode(cleaned, colors, strict=True)
        if pixels is not None:
            return pixels, len(content) - len(cleaned)
        without = _without_foreign_bytes(cleaned, warning)
        if without is None:
            raise DamagedJpegError(warning)
        cleaned = without
    raise DamagedJpegError(f"foreign bytes in more than {MOST_REPAIRS} places")


def decode_damaged(content: bytes, colors: str) -> Pixels:
    """As much as libjpeg makes of damaged data; DamagedJpegError where that is nothing."""
    pixels, message = _decode(content, colors, strict=False)
    if pixels is None:
        raise DamagedJpegError(message)
    return pixels


def precision(content: bytes) -> int | None:
    """Bits of a sample, as the frame header says; None where there is none."""
    frame = re.search(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..(.)", content, re.DOTALL)
    return frame[1][0] if frame else None


def _decode(content: bytes, colors: str, *, strict: bool) -> tuple[Pixels | None, str]:
    """(pixels, ""), or (None, libjpeg's message) where it fails or, strictly, warns."""
    try:
        return simplejpeg.decode_jpeg(content, colors, strict=strict), ""
    except ValueError as error:
        if UNUSUAL in str(error):
            raise UnusualSubsamplingError from error
        return None, str(error)


def _without_foreign_bytes(content: bytes, warning: str) -> bytes | None:
    """The file without the bytes that a warning speaks of; None where it speaks of damage."""
    found = EXTRANEOUS.search(warning)
    if found is None:
        return None
    count, marker = int(found[1]), int(found[2], 16)
    for end, is_header in _gaps(content, marker):
        start = end - count
        if is_header or _is_padding(content, start, end):
            return content[:start] + content[end:]
    return None


def _is_padding(content: bytes, start: int, end: int) -> bool:
    """Whether bytes after image data hold none of it.

    Padding is zeros or text, bytes below 128, and begins where the decoder stopped.  Image data are as good as random:
    of 299 damaged files with leftover data 7 passed, each with one or two bytes left over.
    """
    run = end
    while run > 0 and content[run - 1] < 0x80:
        run -= 1
    return start - PREFETCHED <= run <= start


def _gaps(content: bytes, wanted: int) -> Iterator[tuple[int, bool]]:
    """(where a wanted marker begins, whether foreign header bytes are in front of it; else: image data are)."""
    position = 2
    after_scan = False
    while (begin := content.find(b"\xff", position)) >= 0 and begin + 1 < len(content):
        code = content[begin + 1]
        if code == 0xFF:  # fill bytes may stand in front of a marker
            position = begin + 1
        elif code == 0 or (after_scan and code in RESTARTS):  # part of the image data
            position = begin + 2
        else:
            if code == wanted and (after_scan or begin > position):
                yield begin, not after_scan
            if code == EOI:
                return
            after_scan = code == SOS
            position = begin + 2 + int.from_bytes(content[begin + 2 : begin + 4], "big")
