"""The training graphs: random crop, mirror, PCA color jitter, mean; one pass over the pixels after the decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.dali import Pipeline, fn, types
from alexnet_fast.pipelines.decoding import Decoding, decode, decode_crop
from alexnet_fast.pipelines.draws import DrawStream
from alexnet_fast.pipelines.reader import Reading, read_samples, source_of
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Statistics
from alexnet_fast.tools.errors import UsageError

Floats = npt.NDArray[np.float32]

NUM_DRAWN = 5
"""Additional outputs of a graph with `with_draws`."""


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented; the defaults are those of 2012.  UsageError for values out of range.

    >>> from alexnet_fast import Augmentation, TrainingLoader
    >>> plain = Augmentation(crop_and_mirror=False, pca_jitter=0)
    >>> loader = TrainingLoader("shards", batch_size=16, device="cpu", augmentation=plain)
    """

    crop_and_mirror: bool = True
    """A random 224 crop, mirrored with probability 1/2; False: the center crop, never mirrored."""
    pca_jitter: float = 0.1
    """Standard deviation of each gᵢ of the PCA color jitter Σ gᵢ·sᵢ·pᵢ (pᵢ: the eigenvectors of the RGB covariance);
    0: none."""
    pca_jitter_divisor: bool = True
    """Divide by 1 + pca_jitter, so that pixels keep their scale."""
    pca_jitter_scale: Literal["sqrt_eigenvalue", "eigenvalue"] = "sqrt_eigenvalue"
    """sᵢ: the square root of the i-th eigenvalue, or the eigenvalue itself, for pixels of 0..1, as the paper's text can
    be read."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pca_jitter) and self.pca_jitter >= 0):
            raise UsageError(f"PCA color jitter {self.pca_jitter:g}: give 0 (none) or more; 0.1 was used in 2012.")
        if self.pca_jitter_scale not in ("sqrt_eigenvalue", "eigenvalue"):
            raise UsageError(f"pca_jitter_scale {self.pca_jitter_scale!r}: give sqrt_eigenvalue or eigenvalue.")

    def of_epoch(
        self, statistics: Statistics, *, seed: int, epoch: int, rank: int, pca_jitter: bool, cropped_alike: int
    ) -> EpochAugmentation:
        """The numbers that an epoch's images are made with; pca_jitter: False omits the jitter and its divisor."""
        deviations = statistics.standard_deviations  # √λ, of pixels 0..255
        scales = deviations if self.pca_jitter_scale == "sqrt_eigenvalue" else deviations**2 / 255
        return EpochAugmentation(
            mean=statistics.mean_rgb.astype(np.float32),
            directions=(scales[:, None] * statistics.directions).T.astype(np.float32),
            strength=self.pca_jitter if pca_jitter else 0.0,
            divisor=1.0 + self.pca_jitter if pca_jitter and self.pca_jitter_divisor else 1.0,
            seed=seed,
            epoch=epoch,
            rank=rank,
            crop_and_mirror=self.crop_and_mirror,
            cropped_alike=cropped_alike,
        )

    def describe_jitter(self) -> str:
        """For the description of a stream: "0.1", "0.1, undivided", "0.1, by eigenvalue"."""
        divided = "" if self.pca_jitter_divisor else ", undivided"
        return f"{self.pca_jitter}{divided}" + (
            "" if self.pca_jitter_scale == "sqrt_eigenvalue" else f", by {self.pca_jitter_scale}"
        )


@dataclass(frozen=True)
class EpochAugmentation:
    """What is done to the pixels x (0..255) of an image: (x − mean + strength·Σ gᵢ·sᵢ·pᵢ) / divisor."""

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
    crop_and_mirror: bool = True
    """False: every image is its center crop, never mirrored."""
    cropped_alike: int = 1
    """Consecutive samples with the same crop and mirror, counted from the epoch's first."""

    @property
    def scale(self) -> float:
        """What pixels are multiplied with: a float32, the divisor's reciprocal as DALI makes it."""
        return float(np.float32(1) / np.float32(self.divisor))

    def shifts(self, g: Floats) -> Floats:
        """(N, 3): colors added to every pixel before the division.  g: (N, 3) as drawn."""
        shifts: Floats = (self.directions * g[:, None]).sum(axis=2)
        return shifts


@dataclass(frozen=True)
class DrawNodes:
    """The random draws for each image of a batch, as DALI nodes in host memory."""

    corner: Any
    """(2,) int32, 0..size − 224: y and x of the crop."""
    mirror: Any
    """() int32, 0 or 1."""
    g: Any
    """(3,) float32: how far the color goes along each direction, times `strength`."""


def draw(augmentation: EpochAugmentation, size: int, start: int = 0) -> DrawNodes:
    """Draw once for each image: offsets uniform, mirror ½, g ~ strength · N(0, 1).

    To be called within a pipeline, whose first image is the sample `start` of the epoch.
    """
    stream = DrawStream(augmentation.seed, augmentation.epoch, augmentation.rank, size, augmentation.cropped_alike)
    batch_size = Pipeline.current().max_batch_size
    strength = np.float32(augmentation.strength)
    batches = count(start, batch_size)

    # With a counter of its own: DALI's count restarts at 0 where a pipeline is restored from a checkpoint.
    def next_draws(_: int) -> tuple[Any, Any, Any]:
        draws = stream.at(next(batches), batch_size)
        if not augmentation.crop_and_mirror:
            return np.full_like(draws.corner, (size - CROP) // 2), np.zeros_like(draws.mirror), draws.g * strength
        return draws.corner, draws.mirror, draws.g * strength

    corner, mirror, g = fn.external_source(
        next_draws, num_outputs=3, batch=True, dtype=[types.INT32, types.INT32, types.FLOAT], ndim=[1, 0, 1]
    )
    return DrawNodes(corner, mirror, g)


def augment(pixels: Any, draws: DrawNodes, augmentation: EpochAugmentation, size: int, dtype: Any) -> Any:
    """Whole images (size, size, 3) or their crops (224, 224, 3), by `size` -> (224, 224, 3) of `dtype`.

    The PCA color jitter costs nothing: it is added to the mean that is subtracted from each image.
    """
    position: dict[str, Any] = {}
    if size > CROP:
        share = draws.corner * (1 / (size - CROP))  # DALI takes shares of the margin, and rounds to pixels
        position = {"crop_pos_y": share[0], "crop_pos_x": share[1]}
    shift = fn.reductions.sum(types.Constant(augmentation.directions) * draws.g, axes=[1])
    return fn.crop_mirror_normalize(
        pixels,
        crop=(CROP, CROP),
        **position,
        mirror=draws.mirror,
        mean=types.Constant(augmentation.mean) - shift,
        std=[augmentation.divisor] * 3,
        dtype=dtype,
        output_layout="HWC",
    )


def training_graph(
    reading: Reading,
    decoding: Decoding,
    augmentation: EpochAugmentation,
    dtype: Any,
    *,
    start: int = 0,
    with_draws: bool = False,
) -> tuple[Any, ...]:
    """Images (224, 224, 3) and labels' digits (5,) uint8, on the GPU if there is one.

    start: samples of the epoch that come before the reader's first.
    With `with_draws` also, as the last NUM_DRAWN, the three of `DrawNodes` in their order, where each image came from,
    and its decoded pixels.
    """
    jpeg, digits = read_samples(reading)
    draws = draw(augmentation, decoding.size, start)
    if decoding.backend == "mixed":
        pixels = decode(jpeg, decoding)
        images = augment(pixels, draws, augmentation, decoding.size, dtype)
    else:  # the CPU decodes and copies the crop alone
        pixels = decode_crop(jpeg, (CROP, CROP), draws.corner)
        images = augment(pixels.gpu() if decoding.to_gpu else pixels, draws, augmentation, CROP, dtype)
    if decoding.backend == "mixed" or decoding.to_gpu:
        digits = digits.gpu()
    if not with_draws:
        return images, digits
    whole = pixels if decoding.backend == "mixed" else decode(jpeg, decoding)
    return images, digits, *_drawn(draws, jpeg, whole)


def cutting_graph(
    reading: Reading, decoding: Decoding, augmentation: EpochAugmentation, *, start: int = 0, with_draws: bool = False
) -> tuple[Any, ...]:
    """For a CPU, what is left to do outside DALI: crops (224, 224, 3) uint8, digits (5,) uint8, mirror, g.

    No pixel outside the crop is made; the others are those of the whole image, bit for bit.  `with_draws` adds what
    it adds in `training_graph`.
    """
    jpeg, digits = read_samples(reading)
    draws = draw(augmentation, decoding.size, start)
    crops = decode_crop(jpeg, (CROP, CROP), draws.corner)
    outputs = crops, digits, draws.mirror, draws.g
    return (*outputs, *_drawn(draws, jpeg, decode(jpeg, decoding))) if with_draws else outputs


def _drawn(draws: DrawNodes, jpeg: Any, pixels: Any) -> tuple[Any, ...]:
    return draws.corner, draws.mirror, draws.g, source_of(jpeg), pixels
