"""The random draws of an epoch: a function of the sample's position in the stream alone.

DALI's own random operators draw by the place in a batch, so that another batch size would give other crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.seeds import derive_seed
from alexnet_fast.tools.crop import CROP

BLOCK = 256
"""Samples that share a generator."""


@dataclass(frozen=True)
class Draws:
    """For N samples."""

    corner: npt.NDArray[np.int32]
    """(N, 2), 0..size − 224: y and x of the crop, uniform."""
    mirror: npt.NDArray[np.int32]
    """(N,), 0 or 1, each with probability ½."""
    g: npt.NDArray[np.float32]
    """(N, 3), N(0, 1): how far the color goes along each direction."""


@dataclass(frozen=True)
class DrawStream:
    """The draws of one rank's epoch."""

    seed: int
    epoch: int
    rank: int
    size: int
    """Pixels on each side of a stored image."""
    cropped_alike: int = 1
    """Consecutive samples, from the epoch's first, that share corner and mirror; BLOCK is a multiple of it."""

    def at(self, start: int, count: int) -> Draws:
        """Of the samples `start` … `start + count − 1`, counted from the beginning of the rank's epoch."""
        parts = []
        for number in range(start // BLOCK, -(-(start + count) // BLOCK)):
            first = number * BLOCK
            own = slice(max(0, start - first), start + count - first)
            whole = draw_block(self, number)
            parts.append((whole.corner[own], whole.mirror[own], whole.g[own]))
        corner, mirror, g = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Draws(corner, mirror, g)


@lru_cache(maxsize=8)
def draw_block(stream: DrawStream, number: int) -> Draws:
    """BLOCK samples from `number` · BLOCK on; small batches ask for the same block several times."""
    generator = np.random.Generator(
        np.random.Philox(key=derive_seed(stream.seed, stream.epoch, stream.rank, f"draws {number}"))
    )
    own, alike = BLOCK // stream.cropped_alike, stream.cropped_alike
    return Draws(
        corner=generator.integers(stream.size - CROP + 1, size=(own, 2), dtype=np.int32).repeat(alike, axis=0),
        mirror=generator.integers(2, size=own, dtype=np.int32).repeat(alike),
        g=generator.standard_normal((BLOCK, 3), dtype=np.float32),
    )
