"""The demo's data set: drawn shapes and textures in ten classes, laid out like ImageNet, oddities included.

Five classes are a shape and five a texture.  Each shape shares its hue with one texture, and hues scatter into their
neighbors', so that neither color nor outline alone determines the class.  Sizes, places, angles, backgrounds, light,
noise and clutter vary from image to image.
"""

from __future__ import annotations

import colorsys
import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_fast.tools import atomic

Floats = npt.NDArray[np.float32]

ORIENTATION = 0x0112
"""EXIF tag."""

ODDITIES = ("gray", "CMYK", "PNG named .JPEG", "lying on its side, with EXIF to say so")
"""What the first images of every class and split are; the others are plain RGB JPEGs."""


@dataclass(frozen=True)
class DemoData:
    """What to draw."""

    num_train: int = 120
    """Training images of each class."""
    num_val: int = 25
    """Validation images of each class."""
    seed: int = 0


def floats(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float32)


def disc(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    """Each of these functions: signed distance to the drawing's edge, negative inside, on coordinates about -1..1."""
    return floats(np.hypot(x, y) - 0.75)


def ring(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    width = chance.uniform(0.12, 0.22)
    return floats(np.abs(np.hypot(x, y) - 0.65) - width)


def square(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    return floats(np.maximum(np.abs(x), np.abs(y)) - 0.62)


def triangle(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    return floats(np.maximum(y, np.abs(x) * 0.866 - y * 0.5) - 0.42)


def star(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    """Five points.  Folding the plane into a tenth leaves one straight edge, from a tip to the corner between two."""
    radius, fifth = np.hypot(x, y), 2 * math.pi / 5
    angle = np.abs((np.arctan2(y, x) + math.pi) % fifth - fifth / 2)
    tip, corner = 0.95, (0.45 * math.cos(math.pi / 5), 0.45 * math.sin(math.pi / 5))
    length = math.hypot(tip - corner[0], corner[1])
    u, v = radius * np.cos(angle), radius * np.sin(angle)
    return floats(((u - tip) * corner[1] + v * (tip - corner[0])) / length)


def stripes(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    period = chance.uniform(0.16, 0.3)
    return floats(period * np.sin(x * 2 * math.pi / period) / 6)


def waves(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    period = chance.uniform(0.2, 0.34)
    bent = x + 0.12 * np.sin(y * chance.uniform(8, 12))
    return floats(period * np.sin(bent * 2 * math.pi / period) / 6)


def checks(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    period = chance.uniform(0.3, 0.5)
    turn = 2 * math.pi / period
    return floats(period * np.sin(x * turn) * np.sin(y * turn) / 4)


def dots(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    period = chance.uniform(0.26, 0.42)
    inside = np.hypot(x % period - period / 2, y % period - period / 2)
    return floats(inside - period * 0.3)


def grid(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    period = chance.uniform(0.24, 0.4)
    to_line = np.minimum(np.abs(x % period - period / 2), np.abs(y % period - period / 2))
    return floats(to_line - period * 0.11)


@dataclass(frozen=True)
class Kind:
    """What distinguishes a class."""

    edge: Callable[[Floats, Floats, np.random.Generator], Floats]
    hue: float
    """0..1 around the circle; images scatter about it."""
    fills: bool
    """Whether it covers the whole image."""


KINDS = {
    "checks": Kind(checks, 0.34, True),
    "disc": Kind(disc, 0.0, False),
    "dots": Kind(dots, 0.14, True),
    "grid": Kind(grid, 0.58, True),
    "ring": Kind(ring, 0.14, False),
    "square": Kind(square, 0.34, False),
    "star": Kind(star, 0.58, False),
    "stripes": Kind(stripes, 0.0, True),
    "triangle": Kind(triangle, 0.8, False),
    "waves": Kind(waves, 0.8, True),
}
"""Class -> what it looks like, in label order."""


def draw_image(kind: Kind, chance: np.random.Generator) -> Image.Image:
    """One image, 180 to 420 pixels on a side."""
    width, height = (int(side) for side in chance.integers(180, 421, 2))
    unit = 2.0 / min(width, height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x - width / 2) * unit, (y - height / 2) * unit
    light = (1 + chance.uniform(0, 0.3) * rotated(x, y, chance)[0])[..., None]
    behind = color(chance.uniform(), chance.uniform(0.05, 0.35), chance.uniform(0.3, 0.9))
    pixels = floats(behind * light)
    for _ in range(int(chance.integers(0, 4))):
        clutter = color(chance.uniform(), 0.3, chance.uniform(0.2, 0.9))
        pixels = paint(pixels, line(x, y, chance), clutter, unit)
    scale = 1.0 if kind.fills else chance.uniform(0.5, 1.0)
    shift_x, shift_y = chance.uniform(-0.25, 0.25), chance.uniform(-0.25, 0.25)
    u, v = rotated((x - shift_x) / scale, (y - shift_y) / scale, chance)
    edge = floats(kind.edge(u, v, chance) * scale)
    hue = kind.hue + chance.normal(0, 0.06)
    front = color(hue, chance.uniform(0.55, 1), chance.uniform(0.45, 1)) * light
    pixels = paint(pixels, edge, front, unit)
    pixels = pixels + chance.standard_normal((height, width, 1), dtype=np.float32) * chance.uniform(2, 18)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def rotated(x: Floats, y: Floats, chance: np.random.Generator) -> tuple[Floats, Floats]:
    angle = chance.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    return floats(cosine * x - sine * y), floats(sine * x + cosine * y)


def line(x: Floats, y: Floats, chance: np.random.Generator) -> Floats:
    """Clutter."""
    along, _ = rotated(x, y, chance)
    return floats(np.abs(along - chance.uniform(-1, 1)) - chance.uniform(0.01, 0.05))


def color(hue: float, saturation: float, value: float) -> Floats:
    """(3,) RGB, 0..255."""
    return floats(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) * 255


def paint(pixels: Floats, edge: Floats, colors: Floats, unit: float) -> Floats:
    """Lay `colors` over the inside of `edge`, smooth over a pixel (`unit`)."""
    cover = np.clip(0.5 - edge / unit, 0, 1)[..., None]
    return floats(pixels + (colors - pixels) * cover)


def store(image: Image.Image, number: int) -> bytes:
    """The file of a class's image `number`, counted from 0; the first ones are `ODDITIES`."""
    stream = io.BytesIO()
    if number == 2:
        image.save(stream, "PNG", compress_level=1)
        return stream.getvalue()
    exif = Image.Exif()
    if number < 2:
        image = image.convert("L" if number == 0 else "CMYK")
    elif number == 3:
        exif[ORIENTATION] = 6  # to be turned a quarter clockwise
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(stream, "JPEG", quality=90, exif=exif)
    return stream.getvalue()


def draw_dataset(folder: Path, data: DemoData, progress: Callable[[int], None] = lambda count: None) -> None:
    """Write train/<class>/<class>_0000.JPEG, … and val/… below `folder`, which appears when all is there.

    The last training image of the first class is cut short, as a broken download would be.  An image depends on
    `data.seed`, its split, class and number alone.  progress: called with 1 after each image.
    """
    with atomic.making_folder(folder) as partial:
        for split, count in (("train", data.num_train), ("val", data.num_val)):
            for name, kind in KINDS.items():
                place = partial / split / name
                place.mkdir(parents=True)
                for number in range(count):
                    seed = [data.seed, zlib.crc32(f"{split}/{name}".encode()), number]
                    content = store(draw_image(kind, np.random.default_rng(seed)), number)
                    if split == "train" and name == next(iter(KINDS)) and number == count - 1:
                        content = content[: len(content) // 2]
                    (place / f"{name}_{number:04}.JPEG").write_bytes(content)
                    progress(1)
