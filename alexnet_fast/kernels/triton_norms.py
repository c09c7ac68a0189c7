"""The norms and their gradients as Triton kernels, one pass each over channels-last maps; what a GPU runs.

The formulas are those of `plain`.  A program takes some pixels and all maps of one tower (or a block of maps).  A
neighbour is loaded again for each number whose window it is in: it lies in the GPU's nearest cache.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alexnet_fast.kernels.plain import CHANNEL_K, SPATIAL_ALPHA, SPATIAL_K, WINDOW

NUMBERS = 1024
"""A program's share of the maps: eight to a thread."""
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
    rows = max(1, NUMBERS // columns)
    pixels = num * height * width
    return (triton.cdiv(pixels, rows), triton.cdiv(maps, columns)), (pixels, height, width, maps, rows, columns)


# In the kernels: `maps` of a tower (or of all, across pixels); ROWS × COLUMNS numbers to a program.


@triton.jit
def inverse_power(d):
    """d^-0.75"""
    root = tl.rsqrt(d)
    return root * tl.sqrt(root)


@triton.jit
def next_inverse_power(d):
    """d^-1.75, without a division."""
    root = tl.rsqrt(d)
    return root * tl.sqrt(root) * (root * root)


@triton.jit
def load_map(pointer, start, column, there, maps, RELU: tl.constexpr):
    """Float32; 0 where a column is outside the tower."""
    inside = there & (column >= 0) & (column < maps)
    x = tl.load(pointer + start + column, mask=inside, other=0.0).to(tl.float32)
    # NaN stays NaN, as in torch: a run that has diverged must be seen to have.
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) if RELU else x


@triton.jit
def squares_around(
    pointer, start, column, there, maps,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sum of squares over the window around a column."""
    total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for offset in tl.static_range(-2, 3):
        x = load_map(pointer, start, column + offset, there, maps, RELU)
        total += x * x
    return total


@triton.jit
def channel_forward_kernel(
    x_pointer, y_pointer, pixels, maps, k, a,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
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
    g_pointer, x_pointer, dx_pointer, pixels, maps, k, a,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    start = (row * tl.num_programs(1) + tl.program_id(1)) * maps
    there = row < pixels
    # Nine neighbours of x, each loaded once: a loop over the windows would load each of them up to five times.
    x0 = load_map(x_pointer, start, column - 4, there, maps, RELU)
    x1 = load_map(x_pointer, start, column - 3, there, maps, RELU)
    x2 = load_map(x_pointer, start, column - 2, there, maps, RELU)
    x3 = load_map(x_pointer, start, column - 1, there, maps, RELU)
    x = load_map(x_pointer, start, column, there, maps, RELU)
    x5 = load_map(x_pointer, start, column + 1, there, maps, RELU)
    x6 = load_map(x_pointer, start, column + 2, there, maps, RELU)
    x7 = load_map(x_pointer, start, column + 3, there, maps, RELU)
    x8 = load_map(x_pointer, start, column + 4, there, maps, RELU)
    shared = x3 * x3 + x * x + x5 * x5
    d = k + a * (x2 * x2 + shared + x6 * x6)
    g = load_map(g_pointer, start, column, there, maps, False)
    through = g * inverse_power(d)
    inner = g * x * next_inverse_power(d)
    d = k + a * (x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3 + x * x)
    inner += load_map(g_pointer, start, column - 2, there, maps, False) * x2 * next_inverse_power(d)
    d = k + a * (x1 * x1 + x2 * x2 + shared)
    inner += load_map(g_pointer, start, column - 1, there, maps, False) * x3 * next_inverse_power(d)
    d = k + a * (shared + x6 * x6 + x7 * x7)
    inner += load_map(g_pointer, start, column + 1, there, maps, False) * x5 * next_inverse_power(d)
    d = k + a * (x * x + x5 * x5 + x6 * x6 + x7 * x7 + x8 * x8)
    inner += load_map(g_pointer, start, column + 2, there, maps, False) * x6 * next_inverse_power(d)
    dx = through - 1.5 * a * x * inner
    if RELU:
        dx = tl.where(x > 0, dx, 0.0)
    tl.store(dx_pointer + start + column, dx.to(dx_pointer.dtype.element_ty), mask=there & (column < maps))


@triton.jit
def pixels_around(
    pointer, pixel, column, pixels, height, width, maps,
    SQUARED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
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
    x_pointer, y_pointer, pixels, height, width, maps, k, a,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    d = k + a * pixels_around(x_pointer, pixel, column, pixels, height, width, maps, True, ROWS, COLUMNS)
    place = pixel * maps + column
    there = (pixel < pixels) & (column < maps)
    x = tl.load(x_pointer + place, mask=there, other=0.0).to(tl.float32)
    tl.store(y_pointer + place, (x * inverse_power(d)).to(y_pointer.dtype.element_ty), mask=there)


@triton.jit
def spatial_inner_kernel(
    g_pointer, x_pointer, through_pointer, inner_pointer,
    pixels, height, width, maps, k, a, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Going back, first half: g·d^-p, and g·x·d^-(p+1), which the second half sums."""
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    d = k + a * pixels_around(x_pointer, pixel, column, pixels, height, width, maps, True, ROWS, COLUMNS)
    place = pixel * maps + column
    there = (pixel < pixels) & (column < maps)
    x = tl.load(x_pointer + place, mask=there, other=0.0).to(tl.float32)
    g = tl.load(g_pointer + place, mask=there, other=0.0).to(tl.float32)
    tl.store(through_pointer + place, g * inverse_power(d), mask=there)
    tl.store(inner_pointer + place, g * x * next_inverse_power(d), mask=there)


@triton.jit
def spatial_backward_kernel(
    x_pointer, through_pointer, inner_pointer, dx_pointer,
    pixels, height, width, maps, a, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inner = pixels_around(inner_pointer, pixel, column, pixels, height, width, maps, False, ROWS, COLUMNS)
    place = pixel * maps + column
    there = (pixel < pixels) & (column < maps)
    x = tl.load(x_pointer + place, mask=there, other=0.0).to(tl.float32)
    through = tl.load(through_pointer + place, mask=there, other=0.0)
    tl.store(dx_pointer + place, (through - 1.5 * a * x * inner).to(dx_pointer.dtype.element_ty), mask=there)
