"""The sums over pixels that sharding spends its time on, compiled: in whole numbers, so the same on every machine.

Half of numpy's time for averages and a quarter for the other sums, with the same results; but importing numba and
loading machine code takes half a second, which `use_loops_for` weighs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.compilation import compiled_exactly

Bytes = npt.NDArray[np.uint8]


@compiled_exactly
def average_rows(rows: Bytes, first_row: int, left: int, side: int, begin: int, averaged: Bytes) -> None:
    """Fill some rows of a square of `side` pixels that is averaged down to `size`.

    rows: (n, W · 3), pixels of three colors; rows[0] is row `first_row` of the square, whose rows begin at byte `left`.
    averaged: (m, size · 3), rows `begin` to `begin + m` of the result.  1 <= size <= side < 2^16.

    Each pixel of the result covers side² parts of 1/size pixel squared, of which the sum is below 2^41.
    """
    size = averaged.shape[1] // 3
    column, sums = np.empty(3 * side, np.uint32), np.empty(3 * size, np.int64)
    # The nearest whole number is ⌊(sum + side²/2) / side²⌋.  Half of one more keeps every quotient 0.5 / side² away
    # from a whole number, which is more than the product's rounding.
    half, share = side * side // 2 + 0.5, 1.0 / (side * side)
    for place in range(len(averaged)):
        start, end = (begin + place) * side, (begin + place + 1) * side
        for y in range(start // size, (end - 1) // size + 1):
            weight = np.uint32(min(end, (y + 1) * size) - max(start, y * size))
            row = rows[y - first_row, left : left + 3 * side]
            if y == start // size:
                for v in range(3 * side):
                    column[v] = np.uint32(weight * np.uint32(row[v]))
            else:
                for v in range(3 * side):
                    column[v] = np.uint32(column[v] + np.uint32(weight * np.uint32(row[v])))
        for q in range(size):
            start, end = q * side, (q + 1) * side
            first, last = start // size, (end - 1) // size
            weight = min(end, (first + 1) * size) - start
            red, green, blue = (
                weight * column[3 * first],
                weight * column[3 * first + 1],
                weight * column[3 * first + 2],
            )
            for x in range(first + 1, last + 1):
                weight = min(end - x * size, size)
                red += weight * column[3 * x]
                green += weight * column[3 * x + 1]
                blue += weight * column[3 * x + 2]
            sums[3 * q], sums[3 * q + 1], sums[3 * q + 2] = red, green, blue
        for v in range(3 * size):
            averaged[place, v] = np.uint8(np.int32((sums[v] + half) * share))


@compiled_exactly
def add_image(pixels: Bytes, recent: npt.NDArray[np.uint16], products: npt.NDArray[np.int64]) -> None:
    """Add one image to sums.

    pixels: (size, size · 3), size <= 4096.  recent: of the same shape, sums of at most 257 images.
    products: (3, size · 3); products[d, v] sums value v of a row times value v + d, over all rows: below 2^32 an image.
    """
    width = pixels.shape[1]
    columns = np.zeros((3, width), np.uint32)
    squares, nearest, next_ones = columns[0], columns[1], columns[2]
    for y in range(len(pixels)):
        row, total = pixels[y], recent[y]
        for v in range(width):
            total[v] += row[v]
        for v in range(width):
            squares[v] = np.uint32(squares[v] + np.uint32(row[v]) * np.uint32(row[v]))
        for v in range(width - 1):
            nearest[v] = np.uint32(nearest[v] + np.uint32(row[v]) * np.uint32(row[v + 1]))
        for v in range(width - 2):
            next_ones[v] = np.uint32(next_ones[v] + np.uint32(row[v]) * np.uint32(row[v + 2]))
    for distance in range(3):
        for v in range(width):
            products[distance, v] += columns[distance, v]
