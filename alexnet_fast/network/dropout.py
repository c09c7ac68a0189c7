"""Dropout as the authors' program had it: training zeroes half of the activations, testing halves all of them.

`torch.nn.Dropout` doubles what it keeps instead.  After fc6 and fc7 that quadruples the logits at the start, and a
network with this initialization becomes NaN within 20 steps.

A mask is a hash of (seed, step, layer, row of the whole batch, unit of the whole layer), not the state of a generator:
it is the same on every device, however rows and units are spread over processes, and after any resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from alexnet_fast.network.kernels.norms import runs_compiled

MASK_32 = 0xFFFF_FFFF


@dataclass(frozen=True)
class DropoutKey:
    """One step's randomness, for the rows this process holds."""

    key: torch.Tensor
    """0-dim int64 on the network's device, `step_key(seed, step)`: a tensor, so that a captured CUDA graph reads it."""
    first_row: int = 0
    """Place of this process's first image in the batch of all processes."""


def step_key(seed: int, step: int) -> int:
    """32 bits that name one step of one run."""
    return mix_integer(mix_integer(seed & MASK_32) ^ (step & MASK_32))


def drop(x: torch.Tensor, dropout: DropoutKey, layer: int, first_unit: int, rate: float) -> torch.Tensor:
    """(rows, units) -> the same with dropped units 0; the others are not scaled.  See `dropout_mask`."""
    if x.device.type == "cuda" or runs_compiled(x):
        y: torch.Tensor = Dropped.apply(x, dropout, layer, first_unit, rate)  # type: ignore[no-untyped-call]
        return y
    return torch.where(dropout_mask(dropout, layer, x.shape[0], x.shape[1], first_unit, rate), x, 0)


class Dropped(torch.autograd.Function):
    """The backward pass recomputes the mask, which is cheaper than storing it."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, dropout: DropoutKey, layer: int, first_unit: int, rate: float
    ) -> torch.Tensor:
        ctx.mask = (dropout.key, layer, dropout.first_row, first_unit, threshold(rate))
        return zero_dropped(x.contiguous(), *ctx.mask)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return zero_dropped(gradients[0].contiguous(), *ctx.mask), None, None, None, None


def zero_dropped(x: torch.Tensor, *mask: Any) -> torch.Tensor:
    if x.device.type == "cpu":
        from alexnet_fast.network.kernels import cpu  # importing numba takes a moment

        return cpu.zero_dropped(x, *mask)
    from alexnet_fast.network.kernels import triton_dropout  # a torch without CUDA comes without Triton

    return triton_dropout.zero_dropped(x, *mask)


def threshold(rate: float) -> int:
    """Hashes below it drop their unit; all have 32 bits."""
    return int(rate * 2**32)


def dropout_mask(
    dropout: DropoutKey, layer: int, num_rows: int, num_units: int, first_unit: int, rate: float
) -> torch.Tensor:
    """(num_rows, num_units) bool, True where a unit is kept.  layer: 6 or 7.  rate: probability of dropping, 0..1."""
    device = dropout.key.device
    rows = torch.arange(dropout.first_row, dropout.first_row + num_rows, device=device)
    units = torch.arange(first_unit, first_unit + num_units, device=device)
    row_keys = mix(mix(dropout.key + layer) ^ rows)
    return mix(row_keys[:, None] ^ units[None, :]) >= threshold(rate)


def mix(x: torch.Tensor) -> torch.Tensor:
    """Int64 in -> 32 well-mixed bits out, 0..2**32-1: a step, then the finaliser "lowbias32" (Wellons 2018)."""
    x = (x + 0x9E37_79B9) & MASK_32
    x = ((x ^ (x >> 16)) * 0x7FEB_352D) & MASK_32
    x = ((x ^ (x >> 15)) * 0x846C_A68B) & MASK_32
    return x ^ (x >> 16)


def mix_integer(x: int) -> int:
    """`mix` for a Python integer."""
    x = (x + 0x9E37_79B9) & MASK_32
    x = ((x ^ (x >> 16)) * 0x7FEB_352D) & MASK_32
    x = ((x ^ (x >> 15)) * 0x846C_A68B) & MASK_32
    return x ^ (x >> 16)
