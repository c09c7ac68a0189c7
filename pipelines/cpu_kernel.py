"""The arithmetic of training images on a CPU, compiled: numpy takes two and a half times as long.

numpy passes over an image once for each step of the formula, which the caches do not hold, and mirrors pixels of three
bytes one by one; and each of its calls stops for Python's lock.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.augmentation import Floats
from alexnet_fast.tools.compilation import compiled_exactly
from alexnet_fast.tools.crop import CROP

ROW = CROP * 3
"""Numbers in a row of an image; known when the loops are compiled, which makes them three times as fast."""


@compiled_exactly
def normalize_images(
    pixels: npt.NDArray[np.uint8],
    mirror: npt.NDArray[np.int32],
    mean: Floats,
    shifts: Floats,
    scale: np.float32,
    images: Floats,
) -> None:
    """images = (pixels − mean + shift) · scale, each step rounded to float32; left and right may change places.

    pixels, images: (N, 224, 224 · 3), 224 pixels of three colors in a row; pixels 0..255.
    mirror: (N,), 0 or not.
    mean: (224, 224 · 3), or (1, 224 · 3) for every row.
    shifts: (N, 3)
    """
    turned, shift = np.empty(ROW, np.uint8), np.empty(ROW, np.float32)
    for n in range(len(pixels)):
        for x in range(CROP):
            for c in range(3):
                shift[3 * x + c] = shifts[n, c]
        for y in range(CROP):
            row, out, mean_row = pixels[n, y], images[n, y], mean[y % len(mean)]
            if mirror[n]:
                for x in range(CROP):
                    for c in range(3):
                        turned[3 * x + c] = row[ROW - 3 - 3 * x + c]
                row = turned
            for place in range(ROW):
                out[place] = (np.float32(row[place]) - mean_row[place] + shift[place]) * scale
