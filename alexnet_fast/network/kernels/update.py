"""The optimizer's update of one tensor in one pass over memory: gradient in, weight, momentum and working copy out."""

from __future__ import annotations

import torch

from alexnet_fast.network.kernels.norms import runs_compiled

BLOCK = 2**20
"""Numbers that plain torch updates at a time: a CPU's cache holds them."""


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

        assert gradient.stride() == weight.stride(), "a gradient lies otherwise than its weight"
        chosen = triton_update.update
    elif runs_compiled(gradient) and weight.dtype == torch.float32:
        chosen = compiled_update
    else:
        chosen = plain_update
    chosen(weight, velocity, gradient, working, rate, momentum, decay, gradient_scale, alive)


def compiled_update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    rate: torch.Tensor,
    momentum: float,
    decay: float,
    gradient_scale: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """On a CPU.  Looks at `alive` on the host."""
    if not bool(alive):
        return
    from alexnet_fast.network.kernels import cpu  # numba takes a moment to load

    slope, fade = float(rate) * float(gradient_scale), float(rate) * decay
    w, v, g = (in_memory_order(tensor) for tensor in (weight, velocity, gradient))
    cpu.update(w, v, g, None if working is None else in_memory_order(working), slope, fade, momentum)


def plain_update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    rate: torch.Tensor,
    momentum: float,
    decay: float,
    gradient_scale: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """In plain torch, in blocks that stay in a CPU's cache.  Looks at `alive`: a GPU would have to wait."""
    if not bool(alive):
        return
    slope, fade = float(rate) * float(gradient_scale), float(rate) * decay
    tensors = [weight, velocity, gradient] if working is None else [weight, velocity, gradient, working]
    lines = [in_memory_order(tensor) for tensor in tensors]
    for first in range(0, len(lines[0]), BLOCK):
        w, v, g, *copy = (line[first : first + BLOCK] for line in lines)
        v.mul_(momentum).sub_(g.to(v.dtype), alpha=slope)
        if fade:
            v.sub_(w, alpha=fade)
        w.add_(v)
        for own in copy:
            own.copy_(w)


def in_memory_order(tensor: torch.Tensor) -> torch.Tensor:
    """All numbers of a dense tensor in one dimension, no copy."""
    tensor = tensor.detach()
    rows = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    return rows.view(-1)
