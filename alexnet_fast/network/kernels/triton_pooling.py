"""Max pooling with stride 2 as Triton kernels, one pass each way over channels-last maps; what a GPU runs.

Forward, a program takes some pixels of the output, backward some of the input, each with a block of maps.
Backward, each element looks up the windows it is in, at most four, and whether it was their maximum: no atomic
additions, so the sum is deterministic.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

NUMBERS = 1024
"""A program's share of the maps: eight to a thread."""
MOST_MAPS = 128
"""Maps of a program."""
NOWHERE: tl.constexpr = tl.constexpr(255)
"""Instead of the maximum's position, where the ReLU is 0."""


def forward(
    x: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor, places: torch.Tensor, pool_size: int, relu: bool
) -> None:
    """Writes the maxima with their bias, and in which pixel of its window each was, row by row from 0.

    All maps are dense channels-last.
    """
    if y.numel():
        grid, sizes = blocks(y)
        options = (bias is not None, relu, pool_size)
        own_bias = x if bias is None else bias
        forward_kernel[grid](x, own_bias, y, places, *x.shape[2:], *y.shape[2:], *sizes[:2], *options, *sizes[2:])


def backward(gradient: torch.Tensor, places: torch.Tensor, dx: torch.Tensor, pool_size: int) -> None:
    """Writes the gradient of the maps; all dense channels-last."""
    if dx.numel():
        grid, sizes = blocks(dx)
        backward_kernel[grid](
            gradient, places, dx, *dx.shape[2:], *gradient.shape[2:], *sizes[:2], pool_size, *sizes[2:]
        )


def blocks(x: torch.Tensor) -> tuple[tuple[int], tuple[int, int, int, int]]:
    """((programs,), (pixels, maps, pixels of a program, maps of a program))."""
    pixels, maps = x.numel() // x.shape[1], x.shape[1]
    columns = max(16, min(MOST_MAPS, maps & -maps))  # the largest power of two that divides the maps: 32 of 96
    rows = NUMBERS // columns
    return (triton.cdiv(pixels, rows) * triton.cdiv(maps, columns),), (pixels, maps, rows, columns)


@triton.jit
def place_of(pixels, maps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(pixel, map, whether there are such) of a program's numbers; blocks of one pixel's maps are neighbors."""
    across = (maps + COLUMNS - 1) // COLUMNS
    pixel = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return pixel, column, (pixel < pixels) & (column < maps)


@triton.jit
def forward_kernel(
    x_pointer, bias_pointer, y_pointer, place_pointer, height, width, pooled_height, pooled_width, pixels, maps,
    BIAS: tl.constexpr, RELU: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pixel, column, there = place_of(pixels, maps, ROWS, COLUMNS)
    top, left = pixel // pooled_width % pooled_height * 2, pixel % pooled_width * 2
    corner = (pixel // (pooled_height * pooled_width) * height + top) * width + left
    most = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    place = tl.full([ROWS, COLUMNS], 0, tl.int32)
    for down in tl.static_range(SIZE):
        for right in tl.static_range(SIZE):
            inside = there & (top + down < height) & (left + right < width)
            start = (corner + down * width + right).to(tl.int64) * maps
            x = tl.load(x_pointer + start + column, mask=inside, other=float("-inf")).to(tl.float32)
            larger = (x > most) | (x != x)  # as torch: the first of equal ones, and NaN is the largest
            most = tl.where(larger, x, most)
            place = tl.where(larger, down * SIZE + right, place)
    if BIAS:
        most += tl.load(bias_pointer + column, mask=column < maps, other=0.0).to(tl.float32)
    if RELU:
        place = tl.where(most <= 0, NOWHERE, place)
        most = tl.where(most <= 0, 0.0, most)  # NaN propagates, so that divergence is detected
    own = pixel.to(tl.int64) * maps + column
    tl.store(y_pointer + own, most.to(y_pointer.dtype.element_ty), mask=there)
    tl.store(place_pointer + own, place.to(tl.uint8), mask=there)


@triton.jit
def backward_kernel(
    g_pointer, place_pointer, dx_pointer, height, width, pooled_height, pooled_width, pixels, maps,
    SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pixel, column, there = place_of(pixels, maps, ROWS, COLUMNS)
    y, x = pixel // width % height, pixel % width
    first_row = pixel // (height * width) * pooled_height
    dx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for up in tl.static_range((SIZE + 1) // 2):
        for back in tl.static_range((SIZE + 1) // 2):
            row, along = y // 2 - up, x // 2 - back  # of a window that this pixel may be in
            down, right = y - 2 * row, x - 2 * along  # its place there
            inside = there & (row >= 0) & (row < pooled_height) & (down < SIZE)
            inside = inside & (along >= 0) & (along < pooled_width) & (right < SIZE)
            window = ((first_row + row) * pooled_width + along).to(tl.int64) * maps + column
            place = tl.load(place_pointer + window, mask=inside, other=NOWHERE)
            g = tl.load(g_pointer + window, mask=inside, other=0.0).to(tl.float32)
            dx += tl.where(place == down * SIZE + right, g, 0.0)
    tl.store(dx_pointer + pixel.to(tl.int64) * maps + column, dx.to(dx_pointer.dtype.element_ty), mask=there)
