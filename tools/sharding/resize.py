"""Area averaging: each pixel of the small image is the mean of the area it covers, fractions of pixels included.

Pillow has no such filter for factors that are not whole: its BOX takes or leaves whole pixels (5.6 levels RMS away from
the true average on ImageNet photos), its BILINEAR and HAMMING blur over twice the area (1.7 and 1.9 levels).  This one
is the exact average, rounded once.  All sums are whole numbers that float32 and float64 hold exactly, in whatever order
they are added: the pixels are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Rows = Callable[[int, int], Bytes]
"""(first, last) -> (last - first, side, 3) pixels of these rows of the square."""

BLOCK = 1 << 16
"""Values that are summed at a time: as many floats as a core's cache holds."""


@dataclass(frozen=True)
class _Parts:
    """Which pixels each of `count` equal parts of a side covers, and how much of each, in units of 1/count pixel."""

    pixels: npt.NDArray[np.intp]
    """(count, taps)"""
    weights: npt.NDArray[np.float32]
    """(count, taps): whole numbers, at most `count`; each row sums to the side's pixels."""


@lru_cache(maxsize=1024)
def _parts(side: int, count: int) -> _Parts:
    edges = np.arange(count + 1, dtype=np.int64) * side
    first, last = edges[:-1] // count, -(-edges[1:] // count)
    pixels = first[:, None] + np.arange((last - first).max())
    covered = np.minimum(edges[1:, None], (pixels + 1) * count) - np.maximum(edges[:-1, None], pixels * count)
    return _Parts(np.minimum(pixels, side - 1).astype(np.intp), np.maximum(covered, 0).astype(np.float32))


def average_area(rows: Rows, side: int, size: int) -> Bytes:
    """The square of `side` pixels, averaged down to (size, size, 3); size <= side < 2^16, size <= 4096.

    Besides what `rows` returns it holds 12 · size · side bytes.
    """
    # Sums over a column's part are at most 255 · side < 2^24, over both directions at most 255 · side² < 2^53.
    columns = np.empty((size, side, 3), np.float32)
    for first, last, block in _blocks(side, size, 3 * side):
        _sum_parts(rows(first, last).reshape(last - first, -1), first, side, columns.reshape(size, -1), block)
    sums = np.empty((size, 3 * size), np.float64)
    for first, last, block in _blocks(side, size, 3 * size):
        turned = np.empty((last - first, size, 3), np.float64)
        for channel in range(3):
            turned[:, :, channel] = columns[:, first:last, channel].T
        _sum_parts(turned.reshape(last - first, -1), first, side, sums, block)
    sums += side * side // 2
    sums /= side * side  # correctly rounded, so that what is below a whole number stays below it
    return np.ascontiguousarray(sums.astype(np.uint8).reshape(size, size, 3).transpose(1, 0, 2))


def _blocks(side: int, count: int, width: int) -> Iterator[tuple[int, int, slice]]:
    """(first pixel, one behind the last, parts): parts that are summed together, of rows of `width` values."""
    pixels = _parts(side, count).pixels
    step = max(1, BLOCK * count // (side * width))
    for begin in range(0, count, step):
        end = min(begin + step, count)
        yield int(pixels[begin, 0]), int(pixels[end - 1, -1]) + 1, slice(begin, end)


def _sum_parts(
    rows: npt.NDArray[Any], first: int, side: int, sums: npt.NDArray[np.floating[Any]], block: slice
) -> None:
    """Weighted sums of rows, which begin at pixel `first`, into sums[block].

    By einsum, since a matrix product may begin threads, which wait for each other where other workers are busy.
    """
    parts = _parts(side, len(sums))
    taps = np.take(rows, parts.pixels[block] - first, axis=0).astype(sums.dtype, copy=False)
    np.einsum("pt,ptv->pv", parts.weights[block].astype(sums.dtype, copy=False), taps, out=sums[block])
