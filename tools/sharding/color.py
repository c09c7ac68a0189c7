"""Whatever colors an image is stored in → 8-bit RGB; docs/formats.md has the whole policy as a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SMALL_PIXELS = 4_000_000
"""Images up to here are held in several forms at once, which is faster."""

OTHER_MODES = {"1": "black and white", "L": "gray", "P": "palette", "YCbCr": "YCbCr", "LAB": "CIELAB"}
"""Pillow's modes that `convert` makes RGB as it should -> what the list of repairs calls them."""

WHITE_IS_ZERO = 0
"""TIFF's PhotometricInterpretation."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags."""
SIGNED, FLOAT = 2, 3
"""TIFF's SampleFormat."""


class UnknownRangeError(Exception):
    """The pixels' values have no known meaning as colors; the message says why."""


def to_rgb(image: Image.Image, png_bits: int | None) -> tuple[Image.Image, list[str]]:
    """(8-bit RGB image, what was converted); png_bits: bits of a channel as a PNG says, None for other formats.

    Raises UnknownRangeError.
    """
    mode, transparent = image.mode, image.info.get("transparency")
    if mode.startswith(("I", "F")):
        return _deep_gray(image, png_bits, transparent)
    converted = ["16 bit"] if png_bits == 16 else []
    if mode == "CMYK":
        return image.convert("RGB"), ["CMYK"]
    if png_bits == 16 and mode == "RGB" and transparent is not None:
        raise UnknownRangeError("16-bit colors, one of them transparent; Pillow gives their upper bytes only")
    if png_bits in (2, 4) and mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // (2**png_bits - 1)  # Pillow scales the pixels, but not this
    if mode == "1" and transparent is not None:
        image = image.convert("L")
        image.info["transparency"] = transparent
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB"), [*converted, "transparency, laid on white"]
    if mode == "RGB":
        return image, converted
    return image.convert("RGB"), [*converted, OTHER_MODES.get(mode, f"mode {mode}")]


def to_rgb_by_rows(image: Image.Image, png_bits: int | None) -> tuple[Image.Image | Pixels, list[str]]:
    """As `to_rgb`; a large image that has to be converted is (H, W, 3), and never held in a third form besides."""
    plain = image.mode == "RGB" and not image.has_transparency_data
    if plain or image.mode.startswith(("I", "F")) or image.width * image.height <= SMALL_PIXELS:
        return to_rgb(image, png_bits)
    return by_rows(image.size, lambda first, last: to_rgb(image.crop((0, first, image.width, last)), png_bits))


def by_rows(
    size: tuple[int, int], converted: Callable[[int, int], tuple[Image.Image, list[str]]]
) -> tuple[Pixels, list[str]]:
    """The pixels of an image of which `converted` makes some rows, and what was converted."""
    width, height = size
    pixels = np.empty((height, width, 3), np.uint8)
    names: list[str] = []
    step = max(1, SMALL_PIXELS // (4 * width))
    for first in range(0, height, step):
        last = min(first + step, height)
        part, names = converted(first, last)
        pixels[first:last] = np.asarray(part)
    return pixels, names


def _deep_gray(image: Image.Image, png_bits: int | None, transparent: object) -> tuple[Image.Image, list[str]]:
    """Gray of more than 8 bits → the upper 8 of them."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    sample_format = tags.get(SAMPLE_FORMAT, (1,))[0]
    if image.mode.startswith("F") or sample_format == FLOAT:
        raise UnknownRangeError("floating-point pixels, of no known range")
    if bits > 16:
        raise UnknownRangeError(f"{bits}-bit pixels, of no known range")
    values: npt.NDArray[np.int32] = np.asarray(image).astype(np.int32)
    if sample_format == SIGNED:
        if values.min() < 0:
            raise UnknownRangeError("signed pixels below zero, of no known range")
        bits -= 1
    if values.min() < 0 or values.max() >= 1 << bits:
        raise UnknownRangeError(f"pixels outside of the range of {bits} bits")
    gray = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = 255 - gray
    converted = [f"{bits} bit"]
    if isinstance(transparent, int):
        gray[values == transparent] = 255
        converted.append("transparency, laid on white")
    return Image.fromarray(gray).convert("RGB"), converted
