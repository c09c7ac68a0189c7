"""The two norms, forward and backward, by what the device has: Triton on a GPU, plain torch on a CPU."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from alexnet_fast.kernels import plain


class NormKernels(Protocol):
    """What a set of kernels has.  Maps are dense channels-last; the gradients returned are those of `x`."""

    def channel_forward(self, x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor: ...

    def channel_backward(
        self, gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool
    ) -> torch.Tensor: ...

    def spatial_forward(self, x: torch.Tensor) -> torch.Tensor: ...

    def spatial_backward(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor: ...


def kernels_for(x: torch.Tensor) -> NormKernels:
    """The kernels for this tensor's device and dtype: Triton's on a GPU, but they compute no float64."""
    if x.device.type == "cuda" and x.dtype != torch.float64:
        from alexnet_fast.kernels import triton_norms  # a torch without CUDA comes without Triton

        return triton_norms
    return plain


def local_response_norm(x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    """Across 5 neighbouring maps of a tower; `relu`: of x first.  (N, C, H, W) channels-last in and out."""
    y: torch.Tensor = ChannelNorm.apply(dense_maps(x), towers, alpha, relu)  # type: ignore[no-untyped-call]
    return y


def spatial_norm(x: torch.Tensor) -> torch.Tensor:
    """Across 5×5 neighbouring pixels of a map.  (N, C, H, W) channels-last in and out."""
    y: torch.Tensor = SpatialNorm.apply(dense_maps(x))  # type: ignore[no-untyped-call]
    return y


def dense_maps(x: torch.Tensor) -> torch.Tensor:
    """Channels-last without holes; the network's maps are so already, and then nothing is copied."""
    return x.contiguous(memory_format=torch.channels_last)


class ChannelNorm(torch.autograd.Function):
    """Saves x alone: the divisors are computed again going back, which is cheaper than reading them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.options = (towers, alpha, relu)
        return kernels_for(x).channel_forward(x, towers, alpha, relu)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        gradient = dense_maps(gradients[0])
        return kernels_for(x).channel_backward(gradient, x, *ctx.options), None, None, None


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
