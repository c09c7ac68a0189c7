"""Images into a given tensor, less what is left of the mean image: one pass instead of a subtraction and a copy."""

from __future__ import annotations

import torch


def subtract(images: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor) -> None:
    """out ← images − residual, (N, 3, H, W) and (3, H, W) of one dtype, rounded once; None: a copy.  All channels-last.

    `out` has a device's memory that does not move, such as a CUDA graph reads.
    """
    if residual is None:
        out.copy_(images)
    elif images.device.type == "cuda":
        from alexnet_fast.network.kernels import triton_residual  # a torch without CUDA comes without Triton

        triton_residual.subtract(images, residual, out)
    else:
        torch.sub(images, residual, out=out)
