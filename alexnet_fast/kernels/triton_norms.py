"""The norms and their gradients as Triton kernels, one pass each over channels-last maps; what a GPU runs.

The formulas are those of `plain`.  A program takes some pixels and all maps of one tower (or a block of maps).  A
neighbour is loaded again for each number whose window it is in: it lies in the GPU's nearest cache.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from alexnet_fast.kernels.plain import CHANNEL_K, SPATIAL_ALPHA, SPATIAL_K, WINDOW

NUMBERS = 4096
"""A program's share of the maps."""
MOST_MAPS = 128
"""Maps of a program of the norm across pixels."""


def channel_forward(x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    y = torch.empty_like(x)
    grid, sizes = channel_grid(x, towers)
    if x.numel():
        channel_forward_kernel[grid](x, y, *sizes[:2], CHANNEL_K, alpha / WINDOW, relu, *sizes[2:])
    return y


def channel_backward(gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    dx = torch.empty_like(x)
    grid, sizes = channel_grid(x, towers)
    if x.numel():
        channel_backward_kernel[grid](gradient, x, dx, *sizes[:2], CHANNEL_K, alpha / WINDOW, relu, *sizes[2:])
    return dx


def channel_grid(x: torch.Tensor, towers: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """((programs, towers), (pixels, maps of a tower, pixels of a program, maps rounded up to a power of two))."""
    pixels, maps = x.numel() // max(1, x.shape[1]), x.shape[1] // towers
    columns = triton.next_power_of_2(maps)
    rows = max(1, NUMBERS // columns)
    return (triton.cdiv(pixels, rows), towers), (pixels, maps, rows, columns)


def spatial_forward(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    if x.numel():
        grid, sizes = spatial_grid(x)
        spatial_forward_kernel[grid](x, y, *sizes[:4], SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, *sizes[4:])
    return y


def spatial_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    dx = torch.empty_like(x)
    if x.numel():
        through = torch.empty_like(x, dtype=torch.float32)
        inner = torch.empty_like(x, dtype=torch.float32)
        grid, sizes = spatial_grid(x)
        a = SPATIAL_ALPHA / WINDOW**2
        spatial_inner_kernel[grid](gradient, x, through, inner, *sizes[:4], SPATIAL_K, a, *sizes[4:])
        spatial_backward_kernel[grid](x, through, inner, dx, *sizes[:4], a, *sizes[4:])
    return dx


def spatial_grid(x: torch.Tensor) -> tuple[tuple[int, int], tuple[int, int, int, int, int, int]]:
    """((programs, blocks of maps), (pixels, H, W, maps, pixels of a program, maps of a block))."""
    num, maps, height, width = x.shape
    columns = min(MOST_MAPS, triton.next_power_of_2(maps))
    rows = max(1, NUMBERS // 4 // columns)
    pixels = num * height * width
    return (triton.cdiv(pixels, rows), triton.cdiv(maps, columns)), (pixels, height, width, maps, rows, columns)


# In the kernels: `maps` of a tower (or of all, across pixels); ROWS × COLUMNS numbers to a program.


@triton.jit
def inverse_power(d: Any) -> Any:
    """d^-0.75"""
    root = tl.rsqrt(d)
    return root * tl.sqrt(root)


@triton.jit
def load_map(pointer: Any, start: Any, column: Any, there: Any, maps: Any, RELU: tl.constexpr) -> Any:
    """Float32; 0 where a column is outside the tower."""
    inside = there & (column >= 0) & (column < maps)
    x = tl.load(pointer + start + column, mask=inside, other=0.0).to(tl.float32)
    return tl.maximum(x, 0.0) if RELU else x


@triton.jit
def squares_around(
    pointer: Any, start: Any, column: Any, there: Any, maps: Any,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> Any:  # fmt: skip
    """The sum of squares over the window around a column."""
    total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for offset in tl.static_range(-2, 3):
        x = load_map(pointer, start, column + offset, there, maps, RELU)
        total += x * x
    return total


@triton.jit
def channel_forward_kernel(
    x_pointer: Any, y_pointer: Any, pixels: Any, maps: Any, k: Any, a: Any,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    start = (row * tl.num_programs(1) + tl.program_id(1)) * maps
    there = row < pixels
    d = k + a * squares_around(x_pointer, start, column, there, maps, RELU, ROWS, COLUMNS)
    x = load_map(x_pointer, start, column, there, maps, RELU)
    y = x * inverse_power(d)
    tl.store(y_pointer + start + column, y.to(y_pointer.dtype.element_ty), mask=there & (column < maps))


@triton.jit
def channel_backward_kernel(
    g_pointer: Any, x_pointer: Any, dx_pointer: Any, pixels: Any, maps: Any, k: Any, a: Any,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    start = (row * tl.num_programs(1) + tl.program_id(1)) * maps
    there = row < pixels
    inner = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    through = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for offset in tl.static_range(-2, 3):
        d = k + a * squares_around(x_pointer, start, column + offset, there, maps, RELU, ROWS, COLUMNS)
        g = load_map(g_pointer, start, column + offset, there, maps, False)
        passed = g * inverse_power(d)
        inner += passed * load_map(x_pointer, start, column + offset, there, maps, RELU) / d
        if offset == 0:
            through = passed
    x = load_map(x_pointer, start, column, there, maps, RELU)
    dx = through - 1.5 * a * x * inner
    if RELU:
        dx = tl.where(x > 0, dx, 0.0)
    tl.store(dx_pointer + start + column, dx.to(dx_pointer.dtype.element_ty), mask=there & (column < maps))


@triton.jit
def pixels_around(
    pointer: Any, pixel: Any, column: Any, pixels: Any, height: Any, width: Any, maps: Any,
    SQUARED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> Any:  # fmt: skip
    """The sum over the 5×5 pixels around each, of the numbers or of their squares."""
    total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    y = (pixel // width) % height
    x = pixel % width
    for down in tl.static_range(-2, 3):
        for right in tl.static_range(-2, 3):
            inside = (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width) & (pixel < pixels)
            place = pointer + (pixel + down * width + right) * maps + column
            value = tl.load(place, mask=inside & (column < maps), other=0.0).to(tl.float32)
            total += value * value if SQUARED else value
    return total


@triton.jit
def spatial_forward_kernel(
    x_pointer: Any, y_pointer: Any, pixels: Any, height: Any, width: Any, maps: Any, k: Any, a: Any,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    d = k + a * pixels_around(x_pointer, pixel, column, pixels, height, width, maps, True, ROWS, COLUMNS)
    place = pixel * maps + column
    there = (pixel < pixels) & (column < maps)
    x = tl.load(x_pointer + place, mask=there, other=0.0).to(tl.float32)
    tl.store(y_pointer + place, (x * inverse_power(d)).to(y_pointer.dtype.element_ty), mask=there)


@triton.jit
def spatial_inner_kernel(
    g_pointer: Any, x_pointer: Any, through_pointer: Any, inner_pointer: Any,
    pixels: Any, height: Any, width: Any, maps: Any, k: Any, a: Any, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Going back, first half: g·d^-p, and g·x·d^-(p+1), which the second half sums."""
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    d = k + a * pixels_around(x_pointer, pixel, column, pixels, height, width, maps, True, ROWS, COLUMNS)
    place = pixel * maps + column
    there = (pixel < pixels) & (column < maps)
    x = tl.load(x_pointer + place, mask=there, other=0.0).to(tl.float32)
    through = tl.load(g_pointer + place, mask=there, other=0.0).to(tl.float32) * inverse_power(d)
    tl.store(through_pointer + place, through, mask=there)
    tl.store(inner_pointer + place, through * x / d, mask=there)


@triton.jit
def spatial_backward_kernel(
    x_pointer: Any, through_pointer: Any, inner_pointer: Any, dx_pointer: Any,
    pixels: Any, height: Any, width: Any, maps: Any, a: Any, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inner = pixels_around(inner_pointer, pixel, column, pixels, height, width, maps, False, ROWS, COLUMNS)
    place = pixel * maps + column
    there = (pixel < pixels) & (column < maps)
    x = tl.load(x_pointer + place, mask=there, other=0.0).to(tl.float32)
    through = tl.load(through_pointer + place, mask=there, other=0.0)
    tl.store(dx_pointer + place, (through - 1.5 * a * x * inner).to(dx_pointer.dtype.element_ty), mask=there)
