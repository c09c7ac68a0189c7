"""Images to squares of 4×4 pixels and to the network's precision as a Triton kernel, in one pass."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

SIDE = 4
"""Pixels on a side of a square."""


def fold(images: torch.Tensor, cells: int, dtype: torch.dtype) -> torch.Tensor:
    """As `layers.fold_images`, which see."""
    num, colors, height, width = images.shape
    numbers = SIDE * SIDE * colors
    images = images.contiguous(memory_format=torch.channels_last)
    folded = torch.empty(num, cells, cells, numbers, dtype=dtype, device=images.device)
    if num:
        # A square's row of SIDE pixels is as many runs as there are colors.
        sizes = (cells, height, width * colors, colors, cells * colors)
        fold_kernel[(num * cells * SIDE,)](images, folded, *sizes, SIDE, triton.next_power_of_2(cells * colors))
    return folded.permute(0, 3, 1, 2)


@triton.jit
def fold_kernel(
    images_pointer, folded_pointer, cells, height, row_numbers, part: tl.constexpr, along,
    SIDE: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    """A program takes one row of pixels, in runs of SIDE numbers that lie together in the images and in the squares.

    So both are read and written by the run, 8 bytes of half precision at a time.  `row_numbers` of an image's row;
    `part`: runs of a square's row; `along`: those that the squares' rows take.
    """
    program = tl.program_id(0)
    row = program % (cells * SIDE)
    run = tl.arange(0, RUNS)[:, None]
    within = tl.arange(0, SIDE)[None, :]
    number = run * SIDE + within
    # Beyond the right and bottom edge there are zeros.
    inside = (number < row_numbers) & (row < height)
    source = ((program // (cells * SIDE)).to(tl.int64) * height + row) * row_numbers + number
    x = tl.load(images_pointer + source, mask=inside, other=0.0)
    first = (program // SIDE).to(tl.int64) * (along * SIDE) + row % SIDE * part
    place = (first + run // part * (part * SIDE) + run % part) * SIDE + within
    tl.store(folded_pointer + place, x.to(folded_pointer.dtype.element_ty), mask=run < along)
