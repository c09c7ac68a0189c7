"""Subtracting the mean image from a batch that already lost its mean colour."""

from __future__ import annotations

import numpy as np
import torch


def subtract_image(images_NHWC: torch.Tensor, residual_HWC: torch.Tensor) -> None:
    """In place, each number rounded once.

    On a CPU by numpy, in the calling thread: torch would share this one pass over memory among threads that afterwards
    wait in a busy loop, on the very cores where DALI's threads decode.
    """
    if images_NHWC.device.type == "cpu":
        pixels = images_NHWC.numpy()
        np.subtract(pixels, residual_HWC.numpy(), out=pixels)
    else:
        images_NHWC.sub_(residual_HWC)
