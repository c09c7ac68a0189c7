"""The two norms, forward and backward: Triton on a GPU, compiled loops on a CPU, plain torch for other dtypes."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from alexnet_fast.network.kernels import plain

COMPILED_DTYPES = (torch.float32, torch.bfloat16)


def runs_compiled(x: torch.Tensor) -> bool:
    """Whether the compiled loops support this tensor."""
    return x.device.type == "cpu" and x.dtype in COMPILED_DTYPES


class NormKernels(Protocol):
    """The interface of a set of kernels.  Maps are dense channels-last; the gradients returned are those of `x`."""

    def channel_forward(
        self, x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None
    ) -> torch.Tensor: ...

    def channel_backward(
        self, gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None
    ) -> torch.Tensor: ...

    def spatial_forward(self, x: torch.Tensor) -> torch.Tensor: ...

    def spatial_backward(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor: ...


def kernels_for(x: torch.Tensor) -> NormKernels:
    """The kernels for this tensor's device and dtype; plain torch for those that have none."""
    if x.device.type == "cuda" and x.dtype != torch.float64:
        from alexnet_fast.network.kernels import triton_norms  # a torch without CUDA comes without Triton

        return triton_norms
    if runs_compiled(x):
        from alexnet_fast.network.kernels import cpu  # importing numba takes a moment

        return cpu
    return plain


def local_response_norm(
    x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Across 5 neighboring maps of a tower; `bias` (C,) is added before, then `relu`.  (N, C, H, W) channels-last."""
    y: torch.Tensor = ChannelNorm.apply(dense_maps(x), bias, towers, alpha, relu)  # type: ignore[no-untyped-call]
    return y


def spatial_norm(x: torch.Tensor) -> torch.Tensor:
    """Across 5×5 neighboring pixels of a map.  (N, C, H, W) channels-last in and out."""
    y: torch.Tensor = SpatialNorm.apply(dense_maps(x))  # type: ignore[no-untyped-call]
    return y


def dense_maps(x: torch.Tensor) -> torch.Tensor:
    """Channels-last without holes; the network's maps are so already, and then nothing is copied."""
    return x.contiguous(memory_format=torch.channels_last)


class ChannelNorm(torch.autograd.Function):
    """Saves x alone: recomputing the divisors in the backward pass is cheaper than reading them."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, towers: int, alpha: float, relu: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(x, bias)
        ctx.options = (towers, alpha, relu)
        return kernels_for(x).channel_forward(x, towers, alpha, relu, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        towers, alpha, relu = ctx.options
        dx = kernels_for(x).channel_backward(dense_maps(gradients[0]), x, towers, alpha, relu, bias)
        return dx, None if bias is None else dx.sum((0, 2, 3)), None, None, None


class SpatialNorm(torch.autograd.Function):
    """Saves x alone, as `ChannelNorm` does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return kernels_for(x).spatial_forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return kernels_for(x).spatial_backward(dense_maps(gradients[0]), x)
