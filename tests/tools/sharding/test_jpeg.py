"""Damaged JPEGs are never taken for whole ones, nor whole ones with foreign bytes in them for damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.sharding.image import BadImageError, encode
from tests.tools.sharding.image_files import jpeg_of_planes, stored, without_adobe

Pixels = Any
Y, X = np.mgrid[0:400, 0:500]
WAVES = np.stack([X * 255 // 500, Y * 255 // 400, 128 + 100 * np.sin(X / 9) * np.cos(Y / 7)], -1)
SCENE = Image.fromarray((WAVES + np.random.default_rng(0).normal(0, 9, WAVES.shape)).clip(0, 255).astype(np.uint8))
FORMS = {
    "baseline": stored(SCENE, "JPEG", quality=90),
    "progressive": stored(SCENE, "JPEG", quality=90, progressive=True),
    "restart markers": stored(SCENE, "JPEG", quality=90, restart_marker_rows=1),
    "gray": stored(SCENE.convert("L"), "JPEG", quality=90),
    "CMYK": stored(SCENE.convert("CMYK"), "JPEG", quality=90),
    "CMYK, unmarked": without_adobe(stored(SCENE.convert("CMYK"), "JPEG", quality=90)),
}


def overwritten(jpeg: bytes, place: float, content: bytes) -> bytes:
    start = int(place * len(jpeg))
    return jpeg[:start] + content + jpeg[start + len(content) :]


TABLES = b"\xff\xc4"
"""Begins a segment that every JPEG here has."""


def with_junk(jpeg: bytes, before: bytes) -> bytes:
    place = jpeg.index(before)
    return jpeg[:place] + b"\0junk\x01" + jpeg[place:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda jpeg: jpeg[: len(jpeg) * 2 // 3],
    "cut short and ended": lambda jpeg: jpeg[: len(jpeg) // 2] + b"\xff\xd9",
    "a page of zeros": lambda jpeg: overwritten(jpeg, 0.4, bytes(4096)),
    "the last page zeros": lambda jpeg: jpeg[:-4098] + bytes(4096) + jpeg[-2:],
    "overwritten": lambda jpeg: overwritten(jpeg, 0.5, b"\x55" * 400),
    "overwritten at random": lambda jpeg: overwritten(jpeg, 0.6, np.random.default_rng(3).bytes(3000)),
    "a piece missing": lambda jpeg: jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 + 700 :],
    "a piece twice": lambda jpeg: jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 - 900 :],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(form: str, damage: str) -> None:
    damaged = DAMAGE[damage](FORMS[form])
    for content in (damaged, with_junk(damaged, TABLES)):  # what is harmless does not hide what is not
        with pytest.raises(BadImageError, match=r"^damaged: |^truncated"):
            encode(content, "a.jpg", ImageOptions())


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "bytes after the end": lambda jpeg: jpeg + np.random.default_rng(1).bytes(1000),
    "a second image after the end": lambda jpeg: jpeg + jpeg,
    "bytes between segments": lambda jpeg: with_junk(jpeg, TABLES),
    "bytes in front of the scan": lambda jpeg: with_junk(jpeg, b"\xff\xda"),
    "fill bytes": lambda jpeg: jpeg[:-2] + b"\xff" * 50 + jpeg[-2:],
    "zeros in front of the end": lambda jpeg: jpeg[:-2] + bytes(50) + jpeg[-2:],
    "zero in front of the end": lambda jpeg: jpeg[:-2] + bytes(1) + jpeg[-2:],
    "text in front of the end": lambda jpeg: jpeg[:-2] + b"made by a camera of that time\n" + jpeg[-2:],
    "in several places": lambda jpeg: with_junk(with_junk(jpeg[:-2] + bytes(99) + jpeg[-2:], TABLES), b"\xff\xda"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_bytes_cost_no_image(form: str, foreign: str) -> None:
    whole = encode(FORMS[form], "a.jpg", ImageOptions())
    made = encode(FOREIGN[foreign](FORMS[form]), "a.jpg", ImageOptions())
    assert np.array_equal(made.pixels, whole.pixels)
    assert made.repairs.removeprefix("foreign bytes between the JPEG's segments").removeprefix("; ") == whole.repairs


@pytest.mark.parametrize("damage", ["cut short", "cut short and ended", "a page of zeros", "overwritten at random"])
def test_damaged_images_are_kept_and_listed_where_that_is_wanted(damage: str) -> None:
    whole = encode(FORMS["baseline"], "a.jpg", ImageOptions())
    kept = encode(DAMAGE[damage](FORMS["baseline"]), "a.jpg", ImageOptions(damaged="keep"))
    assert kept.repairs.startswith("damaged, kept: ")
    assert np.abs(kept.pixels[:80].astype(int) - whole.pixels[:80]).max() == 0  # what comes before the damage
    assert encode(FORMS["baseline"], "a.jpg", ImageOptions(damaged="keep")).repairs == ""
    with pytest.raises(BadImageError):
        encode(FORMS["baseline"][:200], "a.jpg", ImageOptions(damaged="keep"))  # no pixel is there


@pytest.mark.parametrize("luma", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (1, 4)])
@pytest.mark.parametrize("chroma", [(1, 1), (2, 2), (2, 1)])
def test_every_subsampling_is_read(luma: tuple[int, int], chroma: tuple[int, int]) -> None:
    smooth = Image.fromarray(WAVES[:256, :256].clip(0, 255).astype(np.uint8))
    made = encode(jpeg_of_planes(smooth, [luma, chroma, chroma], 98), "a.jpg", ImageOptions())
    assert np.abs(made.pixels.astype(int) - np.asarray(smooth)).mean() < 4


def test_a_dropped_restart_interval_is_damage() -> None:
    jpeg = FORMS["restart markers"]
    start, end = jpeg.index(b"\xff\xd2"), jpeg.index(b"\xff\xd3")
    with pytest.raises(BadImageError, match="damaged"):
        encode(jpeg[:start] + jpeg[end:], "a.jpg", ImageOptions())
