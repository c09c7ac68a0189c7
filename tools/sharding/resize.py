"""Area averaging: each pixel of the small image is the mean of the area it covers, fractions of pixels included.

Pillow has no such filter for factors that are not whole: its BOX takes or leaves whole pixels (5.6 levels RMS away from
the true average on ImageNet photos), its BILINEAR and HAMMING blur over twice the area (1.7 and 1.9 levels).  This one
is the exact average, rounded once, in whole numbers: the pixels are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.sharding.acceleration import loops_in_use

Bytes = npt.NDArray[np.uint8]
Rows = Callable[[int, int], Bytes]
"""(first, last) -> (last - first, W, 3) pixels, contiguous: these rows of the square in their whole width."""

BLOCK = 1 << 17
"""Values that are summed at a time: as many as a core's cache holds."""

FEWEST_ROWS = 8
"""Rows of the result that are made at a time, of large images."""


@dataclass(frozen=True)
class _Parts:
    """Which pixels each of `count` equal parts of a side covers, and how much of each, in units of 1/count pixel."""

    pixels: npt.NDArray[np.intp]
    """(count, taps)"""
    weights: npt.NDArray[Any]
    """(count, taps): whole numbers, at most `count`; each row sums to the side's pixels."""


@lru_cache(maxsize=1024)
def _parts(side: int, count: int, kind: str) -> _Parts:
    edges = np.arange(count + 1, dtype=np.int64) * side
    first, last = edges[:-1] // count, -(-edges[1:] // count)
    pixels = first[:, None] + np.arange((last - first).max())
    covered = np.minimum(edges[1:, None], (pixels + 1) * count) - np.maximum(edges[:-1, None], pixels * count)
    return _Parts(np.minimum(pixels, side - 1).astype(np.intp), np.maximum(covered, 0).astype(kind))


def average_area(rows: Rows, left: int, side: int, size: int) -> Bytes:
    """The square of `side` pixels, averaged down to (size, size, 3); size <= side < 2^16, size <= 4096.

    It asks for the rows in order, a few at a time, and holds no more than these; the square begins at pixel `left`.
    """
    averaged = np.empty((size, size, 3), np.uint8)
    average, step = loops_in_use(), max(FEWEST_ROWS, BLOCK * size // (3 * side * side))
    for begin in range(0, size, step):
        end = min(begin + step, size)
        # One row more, which `_Parts` may name with a weight of zero.
        first, last = begin * side // size, min(-(-end * side // size) + 1, side)
        pixels = rows(first, last).view()
        if average is None:
            averaged[begin:end] = _average(pixels[:, left : left + side], first, begin, end, size)
            continue
        pixels.flags.writeable = False  # Pillow's are not: one type of array, so that the loop is compiled once
        average.average_rows(
            pixels.reshape(len(pixels), -1), first, 3 * left, side, begin, averaged.reshape(size, -1)[begin:end]
        )
    return averaged


def _average(pixels: Bytes, first: int, begin: int, end: int, size: int) -> Bytes:
    """Rows `begin` to `end` of the result, (end - begin, size, 3), of the square's rows from `first` on."""
    side = pixels.shape[1]
    # What is summed is at most 255 · side · side, and half of a divisor is added for rounding.
    kind = "uint32" if side < 4096 else "uint64"
    parts, block = _parts(side, size, kind), slice(begin, end)
    columns = _sums(pixels, parts.pixels[block] - first, parts.weights[block]).reshape(-1, side, 3)
    turned = np.empty((side, len(columns), 3), kind)
    for channel in range(3):
        turned[:, :, channel] = columns[:, :, channel].T
    sums = _sums(turned, parts.pixels, parts.weights)
    sums += side * side // 2
    sums //= side * side
    averaged: Bytes = sums.reshape(size, -1, 3).transpose(1, 0, 2).astype(np.uint8)
    return averaged


def _sums(rows: npt.NDArray[Any], pixels: npt.NDArray[np.intp], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weighted sums of rows: (n, …) of which row pixels[p, t] counts weights[p, t] times in part p -> (parts, values).

    By einsum, since a matrix product may begin threads, which wait for each other where other workers are busy.
    """
    taps = rows.reshape(len(rows), -1).take(pixels, axis=0).astype(weights.dtype, copy=False)
    sums: npt.NDArray[Any] = np.einsum("pt,ptv->pv", weights, taps)
    return sums
