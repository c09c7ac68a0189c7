"""The training graphs: random crop, mirror, PCA color jitter, mean; one pass over the pixels after the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.dali import Pipeline, fn, types
from alexnet_fast.pipelines.decoding import Decoding, decode, decode_crop
from alexnet_fast.pipelines.reader import Reading, read_samples, source_of
from alexnet_fast.pipelines.seeds import derive_seed
from alexnet_fast.tools.crop import CROP

Floats = npt.NDArray[np.float32]

NUM_DRAWN = 5
"""Outputs that a graph has more with its draws."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to the pixels x (0..255) of a image: (x − mean + strength·Σ gᵢ·sᵢ·pᵢ) / divisor."""

    mean: Floats
    """(3,)"""
    directions: Floats
    """(3, 3): column i is sᵢ·pᵢ, the standard deviation along the i-th eigenvector of the RGB covariance times it."""
    strength: float
    """Of the PCA color jitter; 0 is none."""
    divisor: float
    seed: int
    epoch: int
    rank: int
    cropped_alike: int = 1
    """Consecutive samples that get the same crop and mirror, counted from the epoch's first."""

    @property
    def scale(self) -> float:
        """What pixels are multiplied with: a float32, the divisor's reciprocal as DALI makes it."""
        return float(np.float32(1) / np.float32(self.divisor))

    def shifts(self, g: Floats) -> Floats:
        """(N, 3): colors added to every pixel before the division.  g: (N, 3) as drawn."""
        shifts: Floats = (self.directions * g[:, None]).sum(axis=2)
        return shifts

    def seed_for(self, purpose: str) -> int:
        return derive_seed(self.seed, self.epoch, self.rank, purpose)


@dataclass(frozen=True)
class Draws:
    """What chance decided for each image; left in host memory."""

    corner: Any
    """(2,) int32, 0..size − 224: y and x of the crop."""
    mirror: Any
    """() int32, 0 or 1."""
    g: Any
    """(3,) float32: how far the color goes along each direction, times `strength`."""


def draw(augmentation: Augmentation, size: int) -> Draws:
    """Draw once for each image; offsets uniform, mirror ½, g ~ strength · N(0, 1).

    As few operators as can be: on a CPU each holds a batch up for 50 to 100 µs.
    """
    offsets = list(range(size - CROP + 1))
    corner = fn.random.uniform(values=offsets, shape=[2], dtype=types.INT32, seed=augmentation.seed_for("corner"))
    mirror = fn.random.coin_flip(seed=augmentation.seed_for("mirror"))
    if augmentation.cropped_alike > 1:
        alike = augmentation.cropped_alike
        first = [place - place % alike for place in range(Pipeline.current().max_batch_size)]
        corner, mirror = fn.permute_batch(corner, indices=first), fn.permute_batch(mirror, indices=first)
    return Draws(
        corner=corner,
        mirror=mirror,
        # Drawn with the jitter off too, so that an interrupted epoch can continue with it on or off.
        g=fn.random.normal(shape=[3], stddev=augmentation.strength, seed=augmentation.seed_for("colour")),
    )


def augment(pixels: Any, draws: Draws, augmentation: Augmentation, size: int, dtype: Any) -> Any:
    """(224, 224, 3) of `dtype`.  The PCA color jitter costs nothing: it is part of each image's own mean."""
    position = draws.corner * (1 / max(1, size - CROP))  # DALI takes shares of the margin, and rounds to pixels
    shift = fn.reductions.sum(types.Constant(augmentation.directions) * draws.g, axes=[1])
    return fn.crop_mirror_normalize(
        pixels,
        crop=(CROP, CROP),
        crop_pos_y=position[0],
        crop_pos_x=position[1],
        mirror=draws.mirror,
        mean=types.Constant(augmentation.mean) - shift,
        std=[augmentation.divisor] * 3,
        dtype=dtype,
        output_layout="HWC",
    )


def training_graph(
    reading: Reading, decoding: Decoding, augmentation: Augmentation, dtype: Any, *, with_draws: bool = False
) -> tuple[Any, ...]:
    """Images (224, 224, 3) and labels' digits (5,) uint8, on the decoder's device.

    With `with_draws` also, as the last NUM_DRAWN, the three `Draws` in their order, where each image came from, and
    its decoded pixels.
    """
    jpeg, digits = read_samples(reading)
    pixels = decode(jpeg, decoding)
    draws = draw(augmentation, decoding.size)
    images = augment(pixels, draws, augmentation, decoding.size, dtype)
    if decoding.backend == "mixed":
        digits = digits.gpu()
    if not with_draws:
        return images, digits
    return images, digits, *_drawn(draws, jpeg, pixels)


def cutting_graph(
    reading: Reading, decoding: Decoding, augmentation: Augmentation, *, with_draws: bool = False
) -> tuple[Any, ...]:
    """For a CPU, what is left to do outside DALI: crops (224, 224, 3) uint8, digits (5,) uint8, mirror, g.

    No pixel outside the crop is made; the others are those of the whole image, bit for bit.  `with_draws` adds what
    it adds in `training_graph`.
    """
    jpeg, digits = read_samples(reading)
    draws = draw(augmentation, decoding.size)
    crops = decode_crop(jpeg, (CROP, CROP), draws.corner)
    outputs = crops, digits, draws.mirror, draws.g
    return (*outputs, *_drawn(draws, jpeg, decode(jpeg, decoding))) if with_draws else outputs


def _drawn(draws: Draws, jpeg: Any, pixels: Any) -> tuple[Any, ...]:
    return draws.corner, draws.mirror, draws.g, source_of(jpeg), pixels
