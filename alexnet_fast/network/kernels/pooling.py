"""Max pooling, alone or after the norm across maps, fused with the ReLUs around it; kernels chosen by device.

Triton kernels on a GPU and compiled loops on a CPU save one byte for the backward pass of each maximum: its position in
the window, or that the ReLU is 0.  Plain torch saves 8 bytes, its input, and the output of a ReLU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from alexnet_fast.network.kernels.norms import dense_maps, local_response_norm, runs_compiled

POOL_STRIDE = 2
LARGEST_BYTE_WINDOW = 15
"""Pixels on a side of the largest window of which one byte names every pixel, and one more."""


def pooled_size(size: int, pool_size: int) -> int:
    """Pixels on a side after pooling; the last window may reach past the edge: 55 → 27 → 13 → 6."""
    return 1 + -(-(size - pool_size) // POOL_STRIDE)


def max_pool(x: torch.Tensor, pool_size: int, relu: bool, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(N, C, H, W) channels-last -> (N, C, h, w) channels-last; `bias` (C,) is added to the maxima, then `relu`.

    Of a window's equal maxima the first, row by row, gets the gradient.
    """
    # Meta tensors: to estimate the memory that a GPU would need.
    if x.device.type in ("cuda", "meta") and x.dtype != torch.float64:
        y: torch.Tensor = Pooled.apply(x, bias, pool_size, relu)  # type: ignore[no-untyped-call]
    elif runs_compiled(x) and bias is None and pool_size <= LARGEST_BYTE_WINDOW:
        y = CompiledPool.apply(x, pool_size, None, False, relu)  # type: ignore[no-untyped-call]
    else:
        y = F.max_pool2d(x, pool_size, POOL_STRIDE, ceil_mode=True)
        y = y if bias is None else y + bias[:, None, None]
        y = torch.relu(y) if relu else y
    return y


def norm_and_pool(
    x: torch.Tensor,
    towers: int,
    alpha: float,
    pool_size: int,
    *,
    relu_first: bool,
    relu_last: bool,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`local_response_norm`, with `relu_first` before it, then `max_pool`, with `relu_last` behind it."""
    if runs_compiled(x) and bias is None and pool_size <= LARGEST_BYTE_WINDOW:
        y: torch.Tensor = CompiledPool.apply(x, pool_size, (towers, alpha), relu_first, relu_last)  # type: ignore[no-untyped-call]
        return y
    return max_pool(local_response_norm(x, towers, alpha, relu_first, bias), pool_size, relu_last)


def empty_pooled(x: torch.Tensor, pool_size: int) -> torch.Tensor:
    """An uninitialized tensor for the maxima of maps."""
    num, maps, height, width = x.shape
    shape = (num, maps, pooled_size(height, pool_size), pooled_size(width, pool_size))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class CompiledPool(torch.autograd.Function):
    """On a CPU; keeps the maps where a norm or a ReLU came first, else only a byte for each number it gives."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, pool_size: int, norm: tuple[int, float] | None, relu_first: bool, relu_last: bool
    ) -> torch.Tensor:
        from alexnet_fast.network.kernels import cpu  # importing numba takes a moment

        x, y = dense_maps(x), empty_pooled(x, pool_size)
        places = torch.empty_like(y, dtype=torch.uint8)
        cpu.pool_forward(x, y, places, pool_size, norm=norm, relu_first=relu_first, relu_last=relu_last)
        ctx.save_for_backward(x if norm is not None or relu_first else None, places)
        ctx.shape, ctx.options = x.shape, (pool_size, norm, relu_first)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from alexnet_fast.network.kernels import cpu

        x, places = ctx.saved_tensors
        pool_size, norm, relu_first = ctx.options
        gradient = dense_maps(gradients[0])
        dx = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        cpu.pool_backward(x, gradient, places, dx, pool_size, norm=norm, relu_first=relu_first)
        return dx, None, None, None, None


class Pooled(torch.autograd.Function):
    """On a GPU; keeps a byte for each number it gives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, pool_size: int, relu: bool) -> torch.Tensor:
        y = empty_pooled(x, pool_size)
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
