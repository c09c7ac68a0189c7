"""Max pooling whose gradient goes to every pixel that equals the maximum, as the program of 2012 had it.

In plain torch, for any device and dtype; where `exact_2012` does not ask for it the kernels' faster pooling is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from alexnet_fast.network.kernels.pooling import POOL_STRIDE


def tied_max_pool(x: torch.Tensor, pool_size: int) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, h, w): the maximum of each pool_size × pool_size window, stride 2, cut at the edge.

    Source: `convLocalMaxUndo`, which src/layer.cu:1333 of the authors' release calls.
    """
    y: torch.Tensor = TiedMaxPool.apply(x, pool_size)  # type: ignore[no-untyped-call]
    return y


class TiedMaxPool(torch.autograd.Function):
    """Saves its input and output; backward, each pixel is compared with the maximum of every window it is in."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pool_size: int) -> torch.Tensor:
        y = F.max_pool2d(x, pool_size, POOL_STRIDE, ceil_mode=True)
        ctx.save_for_backward(x, y)
        ctx.pool_size = pool_size
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y = ctx.saved_tensors
        dx = torch.zeros_like(x)
        for row in range(ctx.pool_size):
            for column in range(ctx.pool_size):
                pixels = (..., slice(row, None, POOL_STRIDE), slice(column, None, POOL_STRIDE))
                height = min(y.shape[2], x[pixels].shape[2])
                width = min(y.shape[3], x[pixels].shape[3])
                windows = (..., slice(height), slice(width))
                is_maximum = x[pixels][windows] == y[windows]
                dx[pixels][windows] += torch.where(is_maximum, gradients[0][windows], 0)
        return dx, None
