"""One image: every kind that ImageNet and its heirs hold, against a reference in float64."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding import acceleration
from alexnet_fast.tools.sharding.image import ORIENTATION, BadImageError, encode
from alexnet_fast.tools.sharding.resize import average_area

Pixels = Any  # numpy arrays
OPTIONS = ImageOptions()


def scene(width: int, height: int, seed: int = 0) -> Pixels:
    """Smooth colors with some detail, (H, W, 3) uint8; corners differ, so that turning shows."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(7 * x + phase) * np.cos(5 * y + 2 * phase) for phase in (0, 1, 2)]
    values = 128 + 60 * np.stack(waves, -1) + 40 * np.stack([x, y, 1 - x], -1)
    return (values + chance.normal(0, 6, values.shape)).clip(0, 255).astype(np.uint8)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def area_average(pixels: Pixels, size: int) -> Pixels:
    """(size, size, 3) float64: the center square, each output pixel the mean of the area it covers."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side].astype(np.float64)
    edges = np.linspace(0, side, size + 1)
    weights = np.zeros((size, side))
    for row in range(size):
        for pixel in range(int(edges[row]), min(side, int(np.ceil(edges[row + 1])))):
            weights[row, pixel] = min(edges[row + 1], pixel + 1) - max(edges[row], pixel)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("ij,jkc,lk->ilc", weights, square, weights, optimize=True)


@pytest.mark.parametrize(
    "shape", [(500, 375), (375, 500), (257, 300), (511, 512), (640, 1000), (256, 256), (1300, 270)]
)
def test_larger_images_are_area_averages(shape: tuple[int, int]) -> None:
    pixels = scene(*shape)
    made = encode(stored(Image.fromarray(pixels)), "a.png", OPTIONS)
    assert made.pixels.shape == (256, 256, 3) and made.repairs == ""
    difference = made.pixels - area_average(pixels, 256)
    assert np.abs(difference).max() <= 0.5 + 1e-6  # rounded once
    assert abs(difference.mean()) < 0.01


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("side", [256, 257, 375, 512, 1000, 4097])
def test_both_arithmetics_average_exactly(side: int, loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the mean in whole numbers, rounded half up, where white pixels bring the sums to their largest."""
    monkeypatch.setattr(acceleration, "_loops", None)
    if loops:
        acceleration.use_loops_for(acceleration.FEWEST_IMAGES)
    pixels = np.random.default_rng(side).integers(0, 256, (side, side + 9, 3), dtype=np.uint8)
    pixels[: side // 2] |= 0xFE
    made = average_area(lambda first, last: pixels[first:last], 4, side, 256)
    for y, x in ((0, 0), (3, 255), (127, 128), (128, 5), (255, 255)):
        (rows, tall), (columns, wide) = covered(y, side), covered(x, side)
        sums = np.einsum("y,x,yxc->c", tall, wide, pixels[rows, 4:-5][:, columns].astype(np.int64))
        assert made[y, x].tolist() == ((sums + side * side // 2) // (side * side)).tolist()


def covered(part: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that a 256th of a side covers, and how many 256ths of each."""
    return np.unique(np.arange(part * side, (part + 1) * side) // 256, return_counts=True)


def test_smaller_images_are_made_larger_by_cubics() -> None:
    pixels = scene(90, 120)
    made = encode(stored(Image.fromarray(pixels)), "a.png", OPTIONS).pixels
    expected = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC, box=(0, 15, 90, 105))
    assert np.array_equal(made, np.asarray(expected))


def test_what_is_stored_is_a_baseline_rgb_jpeg_without_metadata() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    content = stored(Image.fromarray(scene(400, 300)), "JPEG", exif=exif, comment=b"hello", progressive=True)
    made = encode(content, "a.JPEG", OPTIONS)
    image = Image.open(io.BytesIO(made.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))
    assert not image.getexif() and "comment" not in image.info and not image.info.get("progressive")
    assert np.abs(np.asarray(image).astype(int) - made.pixels).mean() < 4
    assert encode(content, "a.JPEG", OPTIONS).jpeg == made.jpeg
    assert len(encode(content, "a.JPEG", ImageOptions(quality=50)).jpeg) < len(made.jpeg)


COLOR = Image.fromarray(scene(300, 280))
GREY = COLOR.convert("L")
SIXTEEN = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)


def sixteen_bit_color() -> bytes:
    """A PNG of three 16-bit channels, which Pillow reads but does not write: upper byte the image, lower byte 200."""
    pixels = np.stack([np.asarray(COLOR), np.full_like(np.asarray(COLOR), 200)], -1)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", *COLOR.size, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def with_alpha() -> Image.Image:
    image = COLOR.convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 150, 280))
    return image


KINDS: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("gray JPEG", lambda: stored(GREY, "JPEG"), "a.JPEG", "gray"),
    ("CMYK JPEG", lambda: stored(COLOR.convert("CMYK"), "JPEG"), "a.JPEG", "CMYK"),
    ("PNG under .JPEG", lambda: stored(COLOR), "a.JPEG", "PNG under .JPEG"),
    ("GIF under .JPEG", lambda: stored(COLOR, "GIF"), "a.JPEG", "GIF under .JPEG; palette"),
    ("BMP under .jpg", lambda: stored(COLOR, "BMP"), "a.jpg", "BMP under .jpg"),
    ("WebP under .JPEG", lambda: stored(COLOR, "WEBP", lossless=True), "a.JPEG", "WEBP under .JPEG"),
    ("palette", lambda: stored(COLOR.convert("P", palette=Image.Palette.ADAPTIVE)), "a.png", "palette"),
    ("black and white", lambda: stored(GREY.convert("1")), "a.png", "black and white"),
    ("transparency", lambda: stored(with_alpha()), "a.png", "transparency, laid on white"),
    ("16 bit", lambda: stored(SIXTEEN), "a.png", "16 bit"),
    ("16 bit color", sixteen_bit_color, "a.png", "16 bit"),
]


@pytest.mark.parametrize(("make", "name", "repairs"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_every_kind_becomes_rgb_and_is_listed(make: Callable[[], bytes], name: str, repairs: str) -> None:
    made = encode(make(), name, OPTIONS)
    assert made.repairs == repairs
    with Image.open(io.BytesIO(make())) as image:
        plain = np.asarray(with_alpha_on_white(image) if image.mode == "RGBA" else eight_bit(image).convert("RGB"))
    assert np.abs(made.pixels - area_average(plain, 256)).max() <= 3


def with_alpha_on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def eight_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I") else image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = COLOR.resize((320, 256))
    turns = {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
        6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"],
    }  # fmt: skip
    lying = upright
    for turn in turns[orientation]:
        lying = lying.transpose(Image.Transpose[turn])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = stored(lying, "JPEG", quality=97, exif=exif)
    applied = encode(content, "a.JPEG", OPTIONS)
    center = np.asarray(upright)[:, 32:288].astype(int)
    assert np.abs(applied.pixels - center).mean() < 4
    assert applied.repairs == ("" if orientation == 1 else f"EXIF orientation {orientation}")
    ignored = encode(content, "a.JPEG", ImageOptions(exif="ignore"))
    assert ignored.repairs == ""
    if orientation != 1:
        assert np.abs(ignored.pixels - center).mean() > 10


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(301, 264), (60, 83)])
def test_turning_is_exact_applied_or_ignored(form: str, size: tuple[int, int]) -> None:
    lying = Image.fromarray(scene(*reversed(size)))
    options = {"lossless": True} if form == "WEBP" else {}
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        content = stored(lying, form, exif=exif, **options)
        plain = Image.open(io.BytesIO(stored(lying, exif=exif)))
        upright = encode(stored(ImageOps.exif_transpose(plain)), "a.png", OPTIONS)
        applied = encode(content, "a", OPTIONS)
        # Cubics are rounded after each direction, so that turning before or after differs a little.
        assert np.abs(applied.pixels.astype(int) - upright.pixels).max() <= (2 if min(size) < 256 else 0)
        assert applied.repairs == f"EXIF orientation {orientation}"
        ignored = encode(content, "a", ImageOptions(exif="ignore"))
        as_stored = encode(stored(lying), "a.png", OPTIONS).pixels
        assert np.abs(ignored.pixels.astype(int) - as_stored).max() <= (2 if min(size) < 256 else 0)
        assert ignored.repairs == ""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_in_xmp_alone_is_not_looked_at(form: str) -> None:
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
    )
    options: dict[str, Any] = {"xmp": xmp}
    if form == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": text}
    elif form == "TIFF":
        options = {"tiffinfo": {700: xmp}}
    content = stored(COLOR, form, **options)
    assert Image.open(io.BytesIO(content)).getexif().get(ORIENTATION) == 3  # Pillow would turn it
    made, plain = encode(content, "a", OPTIONS), encode(stored(COLOR, form), "a", OPTIONS)
    assert np.array_equal(made.pixels, plain.pixels) and made.repairs == plain.repairs == ""


def test_of_a_tiff_with_a_thumbnail_the_whole_image_is_taken() -> None:
    small = COLOR.resize((75, 70))
    stream = io.BytesIO()
    small.save(stream, "TIFF", tiffinfo={254: 1}, save_all=True, append_images=[COLOR])
    content = bytearray(stream.getvalue())  # in which both pages are marked as small ones
    place = content.rindex(struct.pack("<HHI", 254, 4, 1))
    content[place + 8 : place + 12] = bytes(4)
    made = encode(bytes(content), "a.tif", OPTIONS)
    assert np.array_equal(made.pixels, encode(stored(COLOR), "a.png", OPTIONS).pixels)
    assert made.repairs == "several pages, one taken"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_costs_no_image(form: str) -> None:
    damaged = encode(stored(COLOR, form, exif=b"Exif\0\0XX\0*" + bytes(30)), f"a.{form}", OPTIONS)
    whole = encode(stored(COLOR, form), f"a.{form}", OPTIONS)
    assert np.array_equal(damaged.pixels, whole.pixels) and damaged.repairs == whole.repairs


def test_want_of_memory_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    content = stored(COLOR, "JPEG")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"train/a\.JPEG: there is not enough memory .* fewer --workers"):
        encode(content, "train/a.JPEG", OPTIONS)


def test_other_filters_and_sizes() -> None:
    content = stored(COLOR)
    area = encode(content, "a.png", OPTIONS).pixels.astype(int)
    for name in ("box", "bilinear", "hamming", "bicubic", "lanczos"):
        other = encode(content, "a.png", ImageOptions(filter=name)).pixels.astype(int)
        assert 0 < np.abs(other - area).mean() < 6, name
    assert encode(content, "a.png", ImageOptions(size=64)).pixels.shape == (64, 64, 3)


def bomb() -> bytes:
    """A PNG header that promises 60,000 × 60,000 pixels."""
    content = bytearray(stored(Image.new("L", (8, 8))))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("truncated", lambda: stored(COLOR, "JPEG")[:5000], "truncated"),
    ("truncated PNG", lambda: stored(COLOR)[:5000], "truncated"),
    ("empty", lambda: b"", "empty file"),
    ("text", lambda: b"404 not found\n" * 20, "not an image, or of an unknown format"),
    ("HTML", lambda: b"<html><body>gone</body></html>", "a web page, which is not"),
    ("bomb", bomb, "decompression bomb"),
    ("tiny", lambda: stored(Image.new("RGB", (400, 5))), "too small: 400 × 5"),
    ("one pixel", lambda: stored(Image.new("RGB", (1, 1)), "GIF"), "too small: 1 × 1"),
    ("header only", lambda: stored(COLOR, "JPEG")[:300], ""),
    ("zeros", lambda: bytes(4096), "not an image"),
]


@pytest.mark.parametrize(("make", "reason"), [entry[1:] for entry in BAD], ids=[entry[0] for entry in BAD])
def test_what_cannot_be_used_is_skipped_with_its_reason(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BadImageError) as caught:
        encode(make(), "a.JPEG", OPTIONS)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
