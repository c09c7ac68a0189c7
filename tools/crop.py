"""The square that the network sees of an image, and the middle of the mean image that is subtracted from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CROP = 224
"""Pixels on each side of what the network sees."""


def center_crop(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(S, S, 3), S at least 224 -> (224, 224, 3): a contiguous copy of the middle."""
    top, left = ((size - CROP) // 2 for size in image.shape[:2])
    return np.ascontiguousarray(image[top : top + CROP, left : left + CROP])
