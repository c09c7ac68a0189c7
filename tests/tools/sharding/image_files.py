"""Image files written byte by byte, of kinds that no library at hand writes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

Pixels = Any  # numpy arrays


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(rows: Pixels, bits: int, color_type: int, chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """rows: (H, W) or (H, W, channels) whole numbers of `bits` bits; chunks: put before the data."""
    height, width = rows.shape[:2]
    flat = rows.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in flat]
    else:
        places = np.arange(bits - 1, -1, -1)
        lines = [np.packbits((row[:, None] >> places & 1).ravel().astype(np.uint8)).tobytes() for row in flat]
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    framed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def tiff(
    data: bytes, width: int, height: int, *, bits: Sequence[int], photometric: int, sample_format: int = 1,
    order: str = "<", more: Sequence[tuple[int, int]] = (),
) -> bytes:  # fmt: skip
    """One uncompressed strip; more: (tag, value) besides the usual ones."""
    start = 8 + 2 * len(bits)
    tags: list[tuple[int, int, int, int]] = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, len(bits), bits[0] if len(bits) == 1 else 8),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, start), (277, 3, 1, len(bits)), (278, 4, 1, height),
        (279, 4, 1, len(data)), (339, 3, 1, sample_format), *((tag, 3, 1, value) for tag, value in more),
    ]  # fmt: skip
    entries = b""
    for tag, kind, count, value in sorted(tags):
        inline = kind == 3 and count == 1
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        entries += struct.pack(f"{order}HH" if inline else f"{order}I", *((value, 0) if inline else (value,)))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    depths = struct.pack(f"{order}{len(bits)}H", *bits)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return mark + struct.pack(f"{order}I", start + len(data)) + depths + data + directory


def pack_12(values: Pixels) -> bytes:
    """(H, W) with an even W: two numbers of 12 bits in three bytes."""
    first, second = values[:, ::2], values[:, 1::2]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()


def without_adobe(jpeg: bytes) -> bytes:
    """The same data without Adobe's APP14 segment."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def jpeg_segments(jpeg: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """((marker, content) of the header's segments, image data) of a JPEG with one scan."""
    position = 2
    found: list[tuple[int, bytes]] = []
    while not found or found[-1][0] != 0xDA:
        size = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        found.append((jpeg[position + 1], jpeg[position + 4 : position + 2 + size]))
        position += 2 + size
    return found, jpeg[position:-2]


def jpeg_of_planes(image: Image.Image, factors: Sequence[tuple[int, int]], quality: int = 95) -> bytes:
    """A YCbCr JPEG with any sampling factors, each channel in a scan of its own."""
    widest, highest = (max(side) for side in zip(*factors, strict=True))
    tables, components, scans = b"", b"", b""
    for number, (plane, (across, down)) in enumerate(zip(image.convert("YCbCr").split(), factors, strict=True), 1):
        size = (-(-image.width * across // widest), -(-image.height * down // highest))
        header, data = jpeg_segments(stored(plane.resize(size), "JPEG", quality=quality))
        tables = tables or b"".join(segment(marker, content) for marker, content in header if marker in (0xDB, 0xC4))
        components += bytes([number, across << 4 | down, 0])
        scans += segment(0xDA, bytes([1, number, 0, 0, 63, 0])) + data
    frame = struct.pack(">BHHB", 8, image.height, image.width, 3) + components
    return b"\xff\xd8" + tables + segment(0xC0, frame) + scans + b"\xff\xd9"


def segment(marker: int, content: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content
