"""Max pooling, with the ReLU after it, by what the device has: Triton on a GPU, torch's own on a CPU.

torch's keeps for the way back its input and a place of 8 bytes for each maximum, and a ReLU what it gave.  On a GPU one
byte says all: where in its window the maximum was, or that the ReLU let nothing through.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

POOL_STRIDE = 2


def pooled_size(size: int, pool_size: int) -> int:
    """Pixels on a side after pooling; the last window may reach past the edge: 55 → 27 → 13 → 6."""
    return 1 + -(-(size - pool_size) // POOL_STRIDE)


def max_pool(x: torch.Tensor, pool_size: int, relu: bool, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(N, C, H, W) channels-last -> (N, C, h, w) channels-last; `bias` (C,) is added to the maxima, then `relu`."""
    # Without numbers one reckons what a GPU would keep.
    if x.device.type in ("cuda", "meta") and x.dtype != torch.float64:
        y: torch.Tensor = Pooled.apply(x, bias, pool_size, relu)  # type: ignore[no-untyped-call]
        return y
    pooled = F.max_pool2d(x, pool_size, POOL_STRIDE, ceil_mode=True)
    pooled = pooled if bias is None else pooled + bias[:, None, None]
    return torch.relu(pooled) if relu else pooled


class Pooled(torch.autograd.Function):
    """On a GPU; keeps a byte for each number it gives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, pool_size: int, relu: bool) -> torch.Tensor:
        num, maps, height, width = x.shape
        shape = (num, maps, pooled_size(height, pool_size), pooled_size(width, pool_size))
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        places = torch.empty_like(y, dtype=torch.uint8)
        if x.device.type != "meta":
            from alexnet_fast.network.kernels import triton_pooling  # a torch without CUDA comes without Triton

            triton_pooling.forward(x.contiguous(memory_format=torch.channels_last), bias, y, places, pool_size, relu)
        ctx.save_for_backward(places)
        ctx.shape, ctx.pool_size, ctx.has_bias = x.shape, pool_size, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        dx = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
        if gradient.device.type != "meta":
            from alexnet_fast.network.kernels import triton_pooling

            triton_pooling.backward(gradient, places, dx, ctx.pool_size)
        return dx, dx.sum((0, 2, 3)) if ctx.has_bias else None, None, None
