"""The training graphs: random crop, mirror, colour noise, mean; one pass over the pixels after the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.dali import fn, types
from alexnet_fast.pipelines.decoding import Decoding, decode, decode_crop
from alexnet_fast.pipelines.randomness import derive_seed
from alexnet_fast.pipelines.reader import Reading, read_samples, source_of

CROP = 224
"""Pixels on each side of what the network sees."""

NUM_DRAWN = 6
"""Outputs that a graph has more with its draws."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to the pixels x (0..255) of a picture: (x − mean + strength·Σ gᵢ·sᵢ·pᵢ) / divisor."""

    mean: npt.NDArray[np.float32]
    """(3,)"""
    directions: npt.NDArray[np.float32]
    """(3, 3): column i is sᵢ·pᵢ, the standard deviation along the i-th eigenvector of the RGB covariance times it."""
    strength: float
    """Of the colour noise; 0 is none."""
    divisor: float
    seed: int
    epoch: int
    rank: int

    @property
    def scale(self) -> float:
        """What pixels are multiplied with: a float32, the divisor's reciprocal as DALI makes it."""
        return float(np.float32(1) / np.float32(self.divisor))

    def seed_for(self, purpose: str) -> int:
        return derive_seed(self.seed, self.epoch, self.rank, purpose)


@dataclass(frozen=True)
class Draws:
    """What chance decided for each picture; left in host memory."""

    crop_x: Any
    """() float32, 0..1: multiples of 1 / (size − 224)."""
    crop_y: Any
    mirror: Any
    """() int32, 0 or 1."""
    shift: Any
    """(3,) float32: colour added to every pixel before the division."""


def crop_positions(size: int) -> list[float]:
    """Relative offsets of the 224 crop, one for each pixel offset 0..size−224.

    DALI turns position p into floor(p·(size − 224) + 0.5), so that draws from 0..1 would give the ends half weight.
    """
    margin = size - CROP
    return [offset / margin for offset in range(margin + 1)] if margin else [0.0]


def draw(augmentation: Augmentation, size: int) -> Draws:
    """Draw once for each picture; offsets uniform, mirror ½, g ~ N(0, 1)."""
    positions = crop_positions(size)
    # Drawn without noise too, as zeros, so that an epoch that was interrupted can go on with noise on or off.
    g = fn.random.normal(shape=[3], stddev=augmentation.strength, seed=augmentation.seed_for("colour"))
    shift = fn.reductions.sum(types.Constant(augmentation.directions) * g, axes=[1])
    return Draws(
        crop_x=fn.random.uniform(values=positions, seed=augmentation.seed_for("crop x")),
        crop_y=fn.random.uniform(values=positions, seed=augmentation.seed_for("crop y")),
        mirror=fn.random.coin_flip(seed=augmentation.seed_for("mirror")),
        shift=shift,
    )


def augment(pixels: Any, draws: Draws, augmentation: Augmentation, dtype: Any) -> Any:
    """(224, 224, 3) of `dtype`.  The colour noise costs nothing: it is part of each picture's own mean."""
    return fn.crop_mirror_normalize(
        pixels,
        crop=(CROP, CROP),
        crop_pos_x=draws.crop_x,
        crop_pos_y=draws.crop_y,
        mirror=draws.mirror,
        mean=types.Constant(augmentation.mean) - draws.shift,
        std=[augmentation.divisor] * 3,
        dtype=dtype,
        output_layout="HWC",
    )


def training_graph(
    reading: Reading, decoding: Decoding, augmentation: Augmentation, dtype: Any, *, with_draws: bool = False
) -> tuple[Any, ...]:
    """Images (224, 224, 3) and labels () int64, on the decoder's device.

    With `with_draws` also, as the last NUM_DRAWN, the four `Draws` in their order, where each picture came from, and
    its decoded pixels.
    """
    jpeg, label = read_samples(reading)
    pixels = decode(jpeg, decoding)
    draws = draw(augmentation, decoding.size)
    images = augment(pixels, draws, augmentation, dtype)
    if decoding.backend == "mixed":
        label = label.gpu()
    if not with_draws:
        return images, label
    return images, label, *_drawn(draws, jpeg, pixels)


def cutting_graph(
    reading: Reading, decoding: Decoding, augmentation: Augmentation, *, with_draws: bool = False
) -> tuple[Any, ...]:
    """For a CPU, what is left to do outside DALI: crops (224, 224, 3) uint8, labels () int64, mirror, shift.

    No pixel outside the crop is made; the others are those of the whole picture, bit for bit.  `with_draws` adds what
    it adds in `training_graph`.
    """
    jpeg, label = read_samples(reading)
    draws = draw(augmentation, decoding.size)
    crops = decode_crop(jpeg, (CROP, CROP), draws.crop_x, draws.crop_y)
    outputs = crops, label, draws.mirror, draws.shift
    return (*outputs, *_drawn(draws, jpeg, decode(jpeg, decoding))) if with_draws else outputs


def _drawn(draws: Draws, jpeg: Any, pixels: Any) -> tuple[Any, ...]:
    return draws.crop_x, draws.crop_y, draws.mirror, draws.shift, source_of(jpeg), pixels
