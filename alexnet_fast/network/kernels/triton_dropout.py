"""Dropout as a Triton kernel: the hash of `alexnet_fast.network.dropout`, and what it drops zeroed, in one pass."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024
"""Elements per program."""


def zero_dropped(
    x: torch.Tensor, key: torch.Tensor, layer: int, first_row: int, first_unit: int, threshold: int
) -> torch.Tensor:
    """(rows, units) -> the same, 0 where the unit's hash is below `threshold`, 0..2**32-1.  `key`: 0-dim int64."""
    y = torch.empty_like(x)
    if x.numel():
        rows, units = x.shape
        grid = (triton.cdiv(units, BLOCK), rows)
        dropout_kernel[grid](x, y, key, layer, first_row, first_unit, threshold, units, BLOCK)
    return y


@triton.jit
def mix(x):
    """`alexnet_fast.network.dropout.mix`, in 32 bits."""
    x = x + 0x9E37_79B9
    x = (x ^ (x >> 16)) * 0x7FEB_352D
    x = (x ^ (x >> 15)) * 0x846C_A68B
    return x ^ (x >> 16)


@triton.jit(do_not_specialize=["layer", "first_row", "first_unit", "threshold"])  # 1 would be no number in the kernel
def dropout_kernel(
    x_pointer, y_pointer, key_pointer, layer, first_row, first_unit, threshold, units,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = unit < units
    key = tl.load(key_pointer).to(tl.uint32) + layer.to(tl.uint32)
    row_key = mix(mix(key) ^ (row + first_row).to(tl.uint32))
    alive = mix(row_key ^ (unit + first_unit).to(tl.uint32)) >= threshold.to(tl.uint32)
    place = row.to(tl.int64) * units + unit
    x = tl.load(x_pointer + place, mask=there, other=0.0)
    tl.store(y_pointer + place, tl.where(alive, x, 0.0).to(y_pointer.dtype.element_ty), mask=there)
