"""Images to squares of 4×4 pixels and to the network's precision as a Triton kernel, in one pass."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

SIDE = 4
"""Pixels on a side of a square."""
SQUARES = 32
"""Squares of a program."""


def fold(images: torch.Tensor, cells: int, dtype: torch.dtype) -> torch.Tensor:
    """As `layers.fold_images`, which see."""
    num, colors, height, width = images.shape
    numbers = SIDE * SIDE * colors
    images = images.contiguous(memory_format=torch.channels_last)
    folded = torch.empty(num, cells, cells, numbers, dtype=dtype, device=images.device)
    if num:
        squares = num * cells * cells
        sizes = (squares, cells, height, width, colors, numbers)
        fold_kernel[(triton.cdiv(squares, SQUARES),)](
            images, folded, *sizes, SIDE, SQUARES, triton.next_power_of_2(numbers)
        )
    return folded.permute(0, 3, 1, 2)


@triton.jit
def fold_kernel(
    images_pointer, folded_pointer, squares, cells, height, width, colors: tl.constexpr, numbers: tl.constexpr,
    SIDE: tl.constexpr, SQUARES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    square = tl.program_id(0) * SQUARES + tl.arange(0, SQUARES)[:, None]
    number = tl.arange(0, COLUMNS)[None, :]
    there = (square < squares) & (number < numbers)
    along = number % (SIDE * colors)  # of a square's row: its pixels' colors
    row = square // cells % cells * SIDE + number // (SIDE * colors)
    column = square % cells * SIDE + along // colors
    pixel = ((square // (cells * cells)).to(tl.int64) * height + row) * width + column
    # Beyond the right and bottom edge there are zeros.
    inside = there & (row < height) & (column < width)
    x = tl.load(images_pointer + pixel * colors + along % colors, mask=inside, other=0.0)
    tl.store(folded_pointer + square.to(tl.int64) * numbers + number, x.to(folded_pointer.dtype.element_ty), mask=there)
