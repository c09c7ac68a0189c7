"""The middle of the mean image."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.tools.crop import CROP, center_crop


@pytest.mark.parametrize(("size", "first"), [(256, 16), (224, 0), (257, 16), (240, 8)])
def test_the_center_is_in_the_middle(size: int, first: int) -> None:
    rows, columns, colors = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    crop = center_crop((rows * 1000 + columns + colors / 4).astype(np.float32))
    assert crop.shape == (CROP, CROP, 3) and crop.flags.c_contiguous
    assert crop[0, 0, 0] == first * 1001 and crop[223, 5, 2] == (first + 223) * 1000 + first + 5.5
