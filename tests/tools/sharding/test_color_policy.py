"""The table of docs/formats.md, row by row: pixels against what was written, and against OpenCV where it can.

OpenCV shares libjpeg, libpng and libtiff with Pillow, but none of its code for colors.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.sharding import color
from alexnet_fast.tools.sharding.image import BadImageError, encode
from tests.tools.sharding.image_files import jpeg_of_planes, pack_12, png, stored, tiff, without_adobe

cv2 = pytest.importorskip("cv2")

Pixels = Any
SIZE = 64
OPTIONS = ImageOptions(size=SIZE)  # pixels of files of this size are stored as they are
Y, X = np.mgrid[0:SIZE, 0:SIZE]
GRAY = (X * 255 // (SIZE - 1)).astype(np.uint8)
HOLE = (X >= 20) & (X < 40)
"""What is transparent in images that have transparency."""
COLOR = np.stack([GRAY, (Y * 255 // (SIZE - 1)).astype(np.uint8), np.full_like(GRAY, 90)], -1)
SMOOTH = Image.fromarray(COLOR)


def rgb(gray: Pixels) -> Pixels:
    return np.repeat(np.asarray(gray, np.uint8)[..., None], 3, -1)


def on_white(pixels: Pixels) -> Pixels:
    return np.where(HOLE[..., None], 255, pixels)


def depth(bits: int) -> Pixels:
    """GRAY in numbers of `bits` bits."""
    return GRAY.astype(np.int64) * (2**bits - 1) // 255


def scaled(bits: int) -> Pixels:
    """What `depth` of less than 8 bits means in 8."""
    return rgb(depth(bits) * 255 // (2**bits - 1))


def gray_with_level(bits: int) -> bytes:
    """A PNG with one transparent gray level, where HOLE is; nowhere else is it used."""
    values = np.where(HOLE, 7 % 2**bits, np.where(depth(bits) == 7 % 2**bits, 8 % 2**bits, depth(bits)))
    return png(values, bits, 0, [(b"tRNS", struct.pack(">H", 7 % 2**bits))])


def level_truth(bits: int) -> Pixels:
    values = np.where(depth(bits) == 7 % 2**bits, 8 % 2**bits, depth(bits))
    return on_white(rgb(values >> 8 if bits == 16 else values * 255 // (2**bits - 1)))


PALETTE = bytes(range(256)) + bytes(512)
"""256 times (r, g, b), which only need to differ."""
COLORS = np.frombuffer(PALETTE, np.uint8).reshape(256, 3)

ROWS: list[tuple[str, Callable[[], bytes], Pixels, str, bool]] = [
    # name, file, pixels, what the list of repairs says, whether OpenCV reads it as everybody else does
    ("JPEG, gray", lambda: stored(Image.fromarray(GRAY), "JPEG", quality=98), rgb(GRAY), "gray", True),
    ("JPEG, YCbCr", lambda: stored(SMOOTH, "JPEG", quality=98), COLOR, "", True),
    ("JPEG, RGB", lambda: stored(SMOOTH, "JPEG", quality=98, keep_rgb=True), COLOR, "", True),
    ("JPEG, CMYK with Adobe's marker", lambda: stored(SMOOTH.convert("CMYK"), "JPEG", quality=98), COLOR, "CMYK", True),
    (
        "JPEG, CMYK without it",
        lambda: without_adobe(stored(SMOOTH.convert("CMYK"), "JPEG", quality=98)),
        COLOR,
        "CMYK",
        True,
    ),
    (
        "JPEG, unusual subsampling",
        lambda: jpeg_of_planes(SMOOTH, [(2, 2), (2, 1), (1, 2)]),
        COLOR,
        "unusual subsampling, not looked at for damage",
        True,
    ),
    ("PNG, gray of 1 bit", lambda: png(depth(1), 1, 0), scaled(1), "black and white", True),
    ("PNG, gray of 2 bits", lambda: png(depth(2), 2, 0), scaled(2), "gray", True),
    ("PNG, gray of 4 bits", lambda: png(depth(4), 4, 0), scaled(4), "gray", True),
    ("PNG, gray of 16 bits", lambda: png(depth(16), 16, 0), rgb(GRAY), "16 bit", True),
    *(
        (
            f"PNG, gray of {bits} bits, one level transparent",
            lambda bits=bits: gray_with_level(bits),
            level_truth(bits),
            ("16 bit; " if bits == 16 else "") + "transparency, laid on white",
            False,
        )
        for bits in (1, 2, 4, 8, 16)
    ),
    (
        "PNG, gray and alpha of 16 bits",
        lambda: png(np.stack([depth(16), np.where(HOLE, 0, 65535)], -1), 16, 4),
        on_white(rgb(GRAY)),
        "16 bit; transparency, laid on white",
        True,
    ),
    ("PNG, color of 16 bits", lambda: png(COLOR.astype(int) * 257, 16, 2), COLOR, "16 bit", True),
    (
        "PNG, color, one transparent",
        lambda: png(np.where(HOLE[..., None], [1, 2, 3], COLOR), 8, 2, [(b"tRNS", struct.pack(">3H", 1, 2, 3))]),
        on_white(COLOR),
        "transparency, laid on white",
        True,
    ),
    (
        "PNG, color and alpha",
        lambda: png(np.concatenate([COLOR, np.where(HOLE, 0, 255)[..., None]], -1), 8, 6),
        on_white(COLOR),
        "transparency, laid on white",
        True,
    ),
    (
        "PNG, half transparent",
        lambda: png(np.concatenate([COLOR, np.full_like(GRAY, 51)[..., None]], -1), 8, 6),
        (COLOR * 0.2 + 255 * 0.8).round().astype(np.uint8),
        "transparency, laid on white",
        True,
    ),
    ("PNG, palette", lambda: png(GRAY, 8, 3, [(b"PLTE", PALETTE)]), COLORS[GRAY], "palette", True),
    (
        "PNG, palette with transparent colors",
        lambda: png(np.where(HOLE, 3, np.maximum(GRAY, 4)), 8, 3, [(b"PLTE", PALETTE), (b"tRNS", bytes([9, 9, 9, 0]))]),
        on_white(COLORS[np.maximum(GRAY, 4)]),
        "transparency, laid on white",
        True,
    ),
    *(
        (
            f"TIFF, gray of {bits} bits, {'white' if white else 'black'} is zero, {order}",
            lambda bits=bits, white=white, order=order: tiff(
                (depth(bits) if not white else 2**bits - 1 - depth(bits)).astype(f"{order}u{bits // 8}").tobytes(),
                SIZE,
                SIZE,
                bits=[bits],
                photometric=0 if white else 1,
                order=order,
            ),
            rgb(GRAY),
            "gray" if bits == 8 else "16 bit",
            not (white and bits == 16),
        )
        for bits, white, order in [(8, False, "<"), (8, True, "<"), (16, False, "<"), (16, False, ">"), (16, True, "<")]
    ),
    (
        "TIFF, gray of 12 bits",
        lambda: tiff(pack_12(depth(12)), SIZE, SIZE, bits=[12], photometric=1),
        rgb(depth(12) >> 4),
        "12 bit",
        False,
    ),
    (
        "TIFF, signed gray of 16 bits, not below zero",
        lambda: tiff((GRAY.astype("<i2") * 128).tobytes(), SIZE, SIZE, bits=[16], photometric=1, sample_format=2),
        rgb(GRAY),
        "15 bit",
        False,
    ),
    (
        "TIFF, CMYK",
        lambda: stored(SMOOTH.convert("CMYK"), "TIFF"),
        COLOR,
        "CMYK",
        True,
    ),
    (
        "TIFF, color of 16 bits",
        lambda: tiff((COLOR.astype("<u2") * 257).tobytes(), SIZE, SIZE, bits=[16] * 3, photometric=2),
        COLOR,
        "",
        True,
    ),
    ("TIFF, CIELAB", lambda: stored(as_lab(), "TIFF"), COLOR, "CIELAB", False),  # OpenCV takes another white
    ("TIFF, YCbCr", lambda: stored(SMOOTH.convert("YCbCr"), "TIFF"), COLOR, "YCbCr", True),
    (
        "GIF, animated",
        lambda: stored(
            Image.fromarray(GRAY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GRAY)], duration=50
        ),
        rgb(GRAY),
        "animation, first frame taken; palette",
        True,
    ),
    (
        "MPO",
        lambda: stored(SMOOTH, "MPO", save_all=True, append_images=[Image.fromarray(255 - COLOR)], quality=98),
        COLOR,
        "",
        True,
    ),
    ("GIF", lambda: stored(Image.fromarray(GRAY), "GIF"), rgb(GRAY), "palette", True),
    ("BMP", lambda: stored(SMOOTH, "BMP"), COLOR, "", True),
    (
        "WebP with alpha",
        lambda: stored(with_hole(), "WEBP", lossless=True),
        on_white(COLOR),
        "transparency, laid on white",
        True,
    ),
    ("PGM of 16 bits", lambda: b"P5 64 64 65535\n" + depth(16).astype(">u2").tobytes(), rgb(GRAY), "16 bit", True),
    (
        "PGM of 10 bits",
        lambda: b"P5 64 64 1023\n" + depth(10).astype(">u2").tobytes(),
        rgb(depth(10) / 1023 * 255),
        "16 bit",
        False,
    ),
    ("AVIF", lambda: stored(SMOOTH, "AVIF", quality=95), COLOR, "", False),
    ("JPEG 2000", lambda: stored(SMOOTH, "JPEG2000"), COLOR, "", True),
    (
        "JPEG 2000, gray of 16 bits",
        lambda: stored(Image.fromarray(depth(16).astype(np.uint16)), "JPEG2000"),
        rgb(GRAY),
        "16 bit",
        False,
    ),
]


def as_lab() -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.applyTransform(SMOOTH, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert made is not None
    return made


def with_hole() -> Image.Image:
    image = SMOOTH.convert("RGBA")
    image.putalpha(Image.fromarray(np.where(HOLE, 0, 255).astype(np.uint8)))
    return image


@pytest.mark.parametrize(
    ("make", "truth", "repairs", "others_read_it"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_pixels_are_what_was_stored(
    make: Callable[[], bytes], truth: Pixels, repairs: str, others_read_it: bool
) -> None:
    content = make()
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError as error:
        pytest.skip(f"this Pillow cannot read it: {error}")
    made = encode(content, "a", OPTIONS)
    difference = np.abs(made.pixels.astype(int) - truth.astype(int))
    assert difference.mean() < 2 and np.median(difference) <= 1, difference.mean()
    assert made.repairs == repairs
    if others_read_it:
        assert np.abs(made.pixels.astype(int) - opencv(content)).mean() < 3


def opencv(content: bytes) -> Pixels:
    """OpenCV's pixels as 8-bit RGB on white."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        pytest.skip("this OpenCV cannot read it")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        return rgb(pixels).astype(int)
    colors = pixels[..., 2::-1].astype(float)
    alpha = pixels[..., 3:] / 255 if pixels.shape[2] == 4 else 1.0
    return (colors * alpha + 255 * (1 - alpha)).round().astype(int)


SKIPPED: list[tuple[str, Callable[[], bytes], str]] = [
    (
        "signed gray below zero",
        lambda: tiff(
            ((GRAY.astype("<i2") - 128) * 200).tobytes(), SIZE, SIZE, bits=[16], photometric=1, sample_format=2
        ),
        "signed pixels below zero, of no known range",
    ),
    *(
        (
            f"{kind} of 32 bits",
            lambda form=form, number=number: tiff(
                GRAY.astype(form).tobytes(), SIZE, SIZE, bits=[32], photometric=1, sample_format=number
            ),
            reason,
        )
        for kind, form, number, reason in [
            ("unsigned gray", "<u4", 1, "32-bit pixels, of no known range"),
            ("signed gray", "<i4", 2, "32-bit pixels, of no known range"),
            ("floating-point gray", "<f4", 3, "floating-point pixels, of no known range"),
        ]
    ),
    (
        "color of 16 bits with a transparent one",
        lambda: png(COLOR.astype(int) * 257, 16, 2, [(b"tRNS", struct.pack(">3H", 1, 2, 3))]),
        "16-bit colors, one of them transparent",
    ),
    (
        "JPEG of 12 bits",
        lambda: (lambda jpeg: jpeg[: (at := jpeg.index(b"\xff\xc0")) + 4] + b"\x0c" + jpeg[at + 5 :])(
            stored(SMOOTH, "JPEG")
        ),
        "JPEG of 12 bits, which is not read",
    ),
    ("HEIC", lambda: struct.pack(">I", 24) + b"ftypheic" + bytes(60), "HEIC, which is not among the formats"),
    ("JPEG XL", lambda: b"\xff\x0a" + bytes(60), "JPEG XL, which is not among the formats"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in SKIPPED], ids=[row[0] for row in SKIPPED])
def test_what_has_no_known_colors_is_skipped_by_name(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BadImageError) as caught:
        encode(make(), "a", OPTIONS)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", ["RGBA.png", "LA.png", "P.png", "P.gif", "L.png", "1.png", "CMYK.jpg", "CMYK.tif"])
def test_large_images_are_converted_by_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same pixels, with the same list of what was converted."""
    mode, _, form = kind.partition(".")
    chance = np.random.default_rng(0)
    image = Image.fromarray(chance.integers(0, 256, (301, 333, 4), dtype=np.uint8), "RGBA")
    image = image.convert("RGB").convert(mode) if mode not in ("RGBA", "LA") else image.convert(mode)
    stream = io.BytesIO()
    options = {"transparency": 3} if mode == "P" else {}
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(form, form), **options)
    whole = encode(stream.getvalue(), kind, ImageOptions())
    monkeypatch.setattr(color, "SMALL_PIXELS", 4 * 333 * 17)
    made = encode(stream.getvalue(), kind, ImageOptions())
    assert whole.repairs and made.repairs == whole.repairs
    assert np.array_equal(made.pixels, whole.pixels)
