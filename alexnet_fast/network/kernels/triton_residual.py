"""The subtraction of `residual` as a Triton kernel: 16 bytes at a time; torch moves two for a broadcast operand."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 2048
"""Numbers of an image per program."""


def subtract(images: torch.Tensor, residual: torch.Tensor, out: torch.Tensor) -> None:
    """As `residual.subtract`, which see."""
    images = images.contiguous(memory_format=torch.channels_last)
    residual = residual.permute(1, 2, 0).contiguous()
    assert out.is_contiguous(memory_format=torch.channels_last), "the batch of a captured step lies otherwise"
    num, size = len(images), residual.numel()
    if num:
        subtract_kernel[(triton.cdiv(size, BLOCK), num)](images, residual, out, size, BLOCK)


@triton.jit
def subtract_kernel(images_pointer, residual_pointer, out_pointer, size, BLOCK: tl.constexpr):
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.program_id(1).to(tl.int64) * size + number
    x = tl.load(images_pointer + place, mask=number < size, other=0.0).to(tl.float32)
    left = tl.load(residual_pointer + number, mask=number < size, other=0.0).to(tl.float32)
    tl.store(out_pointer + place, (x - left).to(out_pointer.dtype.element_ty), mask=number < size)
