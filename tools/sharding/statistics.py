"""Mean image, mean color and covariance of the pixels, exactly: integers are summed, and divided once at the end.

The sums do not depend on who summed what in which order, so neither do the results, to the last bit.  The eigenvectors
come from a Jacobi iteration written out here, since a LAPACK may differ in the last bits from one machine to the next.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.dataset import Statistics
from alexnet_fast.tools.sharding.acceleration import loops_in_use

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))
"""Channels whose products are summed, in this order."""


class PixelSums:
    """Sums over images of (size, size, 3) uint8: of every pixel, and of products of channels.

    Small numbers are fast ones: the pixels' sums stay in 16 bits and products in float32, both exact, until they are
    moved to wider numbers in time.
    """

    _MOST_IMAGES = (2**16 - 1) // 255
    """Images whose pixels' sum 16 bits hold."""
    _ROWS = 256
    """Products of 255 · 255 at most, of which float32 holds the sum exactly: less than 2^24."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images = 0
        self.pixel_sums: npt.NDArray[np.int64] = np.zeros((size, size, 3), np.int64)
        self.products = [0] * len(PAIRS)
        """Sums over all pixels of all images of channel · channel, ordered as PAIRS."""
        self._recent = np.zeros((size, size * 3), np.uint16)
        self._num_recent = 0
        self._values = np.empty((min(size, self._ROWS), size * 3), np.float32)
        self._columns = np.zeros((3, size * 3), np.int64)
        """Sums of products, column by column, of neighbors at distance 0, 1, 2 in the row r g b r g b …"""

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Add one image, (size, size, 3)."""
        loops = loops_in_use()
        if loops is not None:
            loops.add_image(pixels.reshape(self._recent.shape), self._recent, self._columns)
        else:
            rows = pixels.reshape(self._recent.shape).astype(np.uint16)  # once: mixed types are twice as slow
            self._recent += rows
            for first in range(0, self.size, self._ROWS):
                self._add_products(rows[first : first + self._ROWS])
        self._num_recent += 1
        self.images += 1
        if self._num_recent == self._MOST_IMAGES:
            self._flush()

    def _add_products(self, rows: npt.NDArray[np.uint16]) -> None:
        values = self._values[: len(rows)]
        np.copyto(values, rows)
        # Every third product is one pair of channels.
        for distance, columns in enumerate(self._columns):
            width = len(columns) - distance
            columns[:width] += np.einsum("ij,ij->j", values[:, :width], values[:, distance:]).astype(np.int64)

    def _flush(self) -> None:
        self.pixel_sums += self._recent.reshape(self.pixel_sums.shape)
        self._recent[:] = 0
        self._num_recent = 0
        for number, (start, end) in enumerate(PAIRS):
            columns = self._columns[end - start]
            self.products[number] += int(columns[start::3].sum())
            columns[start::3] = 0

    def merge(self, other: PixelSums) -> None:
        """Add another's sums to these."""
        other._flush()
        self._flush()
        self.images += other.images
        self.pixel_sums += other.pixel_sums
        self.products = [mine + theirs for mine, theirs in zip(self.products, other.products, strict=True)]

    def state(self) -> dict[str, Any]:
        """Everything, as arrays and integers, for a shard's record."""
        self._flush()
        return {"images": self.images, "products": self.products, "pixel_sums": self.pixel_sums}

    @classmethod
    def from_state(cls, images: int, products: list[int], pixel_sums: npt.NDArray[Any]) -> PixelSums:
        """The sums that `state` gave away."""
        sums = cls(pixel_sums.shape[0])
        sums.images = images
        sums.products = list(products)
        sums.pixel_sums += pixel_sums.astype(np.int64)
        return sums

    def mean_image(self) -> npt.NDArray[np.float32]:
        """(size, size, 3) float32, 0..255."""
        self._flush()
        return (self.pixel_sums / max(self.images, 1)).astype(np.float32)

    def statistics(self, split: str) -> Statistics:
        """The statistics, each number the nearest float64 to its exact value (eigenvalues and vectors: to rounding)."""
        self._flush()
        count = max(self.images, 1) * self.size * self.size
        totals = [int(total) for total in self.pixel_sums.sum(axis=(0, 1))]
        covariance = np.zeros((3, 3))
        for (row, column), product in zip(PAIRS, self.products, strict=True):
            exact = Fraction(product, count) - Fraction(totals[row] * totals[column], count * count)
            covariance[row, column] = covariance[column, row] = float(exact)
        deviations, directions = principal_directions(covariance)
        return Statistics(
            split, np.array([float(Fraction(total, count)) for total in totals]), covariance, deviations, directions
        )


def principal_directions(
    covariance: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Square roots of a (3, 3) covariance's eigenvalues, largest first, and its unit eigenvectors in rows.

    The largest entry (by size) of each eigenvector is positive.  Cyclic Jacobi rotations in plain float64 arithmetic
    (Golub and Van Loan, Matrix Computations, section 8.5).
    """
    matrix = [[float(value) for value in row] for row in covariance]
    vectors = [[float(row == column) for column in range(3)] for row in range(3)]
    for _ in range(30):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            if matrix[p][q] == 0.0:
                continue
            theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q])
            tangent = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
            cosine = 1.0 / math.sqrt(tangent * tangent + 1.0)
            sine = tangent * cosine
            for k in range(3):
                matrix[k][p], matrix[k][q] = (
                    cosine * matrix[k][p] - sine * matrix[k][q],
                    sine * matrix[k][p] + cosine * matrix[k][q],
                )
            for k in range(3):
                matrix[p][k], matrix[q][k] = (
                    cosine * matrix[p][k] - sine * matrix[q][k],
                    sine * matrix[p][k] + cosine * matrix[q][k],
                )
                vectors[p][k], vectors[q][k] = (
                    cosine * vectors[p][k] - sine * vectors[q][k],
                    sine * vectors[p][k] + cosine * vectors[q][k],
                )
            matrix[p][q] = matrix[q][p] = 0.0
    order = sorted(range(3), key=lambda k: -matrix[k][k])
    directions = []
    for k in order:
        largest = max(vectors[k], key=abs)
        directions.append([math.copysign(1.0, largest) * value for value in vectors[k]])
    deviations = [math.sqrt(max(matrix[k][k], 0.0)) for k in order]
    return np.array(deviations), np.array(directions)
