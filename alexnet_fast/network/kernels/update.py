"""The optimizer's update of one tensor in one pass over memory: reads the gradient; writes weight, momentum, copy."""

from __future__ import annotations

import torch

from alexnet_fast.network.kernels.norms import runs_compiled

BLOCK = 2**20
"""Elements that plain torch updates at a time: they fit into a CPU's cache."""


def update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    *,
    rate: torch.Tensor,
    momentum: float,
    decay: float,
    gradient_scale: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """v ← momentum·v − rate·(gradient·gradient_scale + decay·w);  w ← w + v;  working ← w.

    All tensors but the 0-dim `rate`, `gradient_scale` and `alive` have the same shape and strides.  Where `alive` is
    False nothing changes.
    """
    if weight.device.type == "cuda" and weight.dtype == torch.float32:
        from alexnet_fast.network.kernels import triton_update  # a torch without CUDA comes without Triton

        assert gradient.stride() == weight.stride(), "a gradient has other strides than its weight"
        triton_update.update(weight, velocity, gradient, working, rate, momentum, decay, gradient_scale, alive)
        return
    if not bool(alive):  # on a CPU; a GPU without our kernels synchronizes here
        return
    slope, fade = float(rate) * float(gradient_scale), float(rate) * decay
    w, v, g = (in_memory_order(tensor) for tensor in (weight, velocity, gradient))
    copy = None if working is None else in_memory_order(working)
    if runs_compiled(gradient) and weight.dtype == torch.float32:
        from alexnet_fast.network.kernels import cpu  # importing numba takes a moment

        cpu.update(w, v, g, copy, slope, fade, momentum)
    else:
        plain_update(w, v, g, copy, slope, fade, momentum)


def plain_update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    slope: float,
    fade: float,
    momentum: float,
) -> None:
    """`cpu.update` in plain torch, in blocks that fit into a CPU's cache."""
    tensors = [weight, velocity, gradient] if working is None else [weight, velocity, gradient, working]
    for first in range(0, len(weight), BLOCK):
        w, v, g, *copy = (tensor[first : first + BLOCK] for tensor in tensors)
        v.mul_(momentum).sub_(g.to(v.dtype), alpha=slope)
        if fade:
            v.sub_(w, alpha=fade)
        w.add_(v)
        for own in copy:
            own.copy_(w)


def in_memory_order(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor as one dimension, in memory order, without a copy."""
    tensor = tensor.detach()
    rows = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    return rows.view(-1)
