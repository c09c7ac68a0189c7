"""The optimizer's update as a Triton kernel: one pass over a tensor, without synchronizing the host."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 2048
"""Elements per program."""


def update(
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
    """As `kernels.update.update`; all tensors are dense and have the same memory order."""
    copy = weight if working is None else working
    scalars = (rate, gradient_scale, alive.view(torch.uint8), momentum, decay)
    grid = (triton.cdiv(weight.numel(), BLOCK),)
    update_kernel[grid](weight, velocity, gradient, copy, *scalars, weight.numel(), working is not None, BLOCK)


@triton.jit
def update_kernel(
    w_pointer, v_pointer, g_pointer, copy_pointer,
    rate_pointer, scale_pointer, alive_pointer, momentum, decay, size,
    HAS_COPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = (place < size) & (tl.load(alive_pointer) != 0)
    rate = tl.load(rate_pointer).to(tl.float32)
    scale = tl.load(scale_pointer).to(tl.float32)
    w = tl.load(w_pointer + place, mask=there, other=0.0)
    v = tl.load(v_pointer + place, mask=there, other=0.0)
    g = tl.load(g_pointer + place, mask=there, other=0.0).to(tl.float32) * scale
    v = momentum * v - rate * (g + decay * w)
    w += v
    tl.store(v_pointer + place, v, mask=there)
    tl.store(w_pointer + place, w, mask=there)
    if HAS_COPY:
        tl.store(copy_pointer + place, w.to(copy_pointer.dtype.element_ty), mask=there)
