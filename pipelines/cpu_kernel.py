"""Normalization of training images on a CPU as a compiled loop: numpy takes two and a half times as long.

numpy makes a pass over the image for each operation of the formula, mirrors pixels of three bytes one by one, and holds
the GIL.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.augmentation import Floats
from alexnet_fast.tools.compilation import compiled_exactly
from alexnet_fast.tools.crop import CROP

ROW = CROP * 3
"""Values in a row of an image; a compile-time constant, which makes the loops three times as fast."""


@compiled_exactly
def normalize_images(
    pixels: npt.NDArray[np.uint8],
    mirror: npt.NDArray[np.int32],
    mean: Floats,
    shifts: Floats,
    scale: np.float32,
    images: Floats,
) -> None:
    """images = (pixels − mean + shift) · scale, each step rounded to float32; mirrored where `mirror` is not 0.

    pixels, images: (N, 224, 224 · 3), 224 pixels of three colors in a row; pixels 0..255.
    mirror: (N,), 0 or not.
    mean: (224, 224 · 3), or (1, 224 · 3) for every row.
    shifts: (N, 3)
    """
    mirrored, shift = np.empty(ROW, np.uint8), np.empty(ROW, np.float32)
    for n in range(len(pixels)):
        for x in range(CROP):
            for c in range(3):
                shift[3 * x + c] = shifts[n, c]
        for y in range(CROP):
            row, out, mean_row = pixels[n, y], images[n, y], mean[y % len(mean)]
            if mirror[n]:
                for x in range(CROP):
                    for c in range(3):
                        mirrored[3 * x + c] = row[ROW - 3 - 3 * x + c]
                row = mirrored
            for place in range(ROW):
                out[place] = (np.float32(row[place]) - mean_row[place] + shift[place]) * scale
