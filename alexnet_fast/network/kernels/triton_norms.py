"""The norms and their gradients as Triton kernels, each one pass over channels-last maps.

The formulas are those of `plain`.  A program takes some pixels and all maps of one tower, or a block of maps.  Across
maps a window's sum is a product with a band matrix of ones, on the GPU's matrix units: separate loads of the neighbors
would read two bytes at a time, once per window.  Across pixels they are read once per window, from the L1 cache.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alexnet_fast.network.kernels.plain import CHANNEL_K, SPATIAL_ALPHA, SPATIAL_K, WINDOW

NUMBERS = 1024
"""A program's share of the maps, across pixels: eight to a thread."""
MOST_MAPS = 128
"""Maps of a program, across pixels."""
PIXELS = 64
"""Of a program, across maps: as many rows as Hopper's matrix units take at once."""
PIXELS_BEFORE_AMPERE = 16
"""For float32, which has no matrix units here, and whose blocks take more shared memory."""
MOST_COLUMNS = 64
"""Maps of a program, across maps; where a tower has more, its blocks overlap by twice `HALO`."""
HALO = 8
"""At least 4, the reach of a gradient; 8 numbers of half precision can be read at once."""


def channel_forward(
    x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    y = torch.empty_like(x)
    if x.numel():
        grid, sizes, tile = channel_grid(x, towers)
        options = (bias is not None, relu)
        own_bias = x if bias is None else bias
        channel_forward_kernel[grid](x, own_bias, y, *sizes, CHANNEL_K, alpha / WINDOW, *options, *tile)
    return y


def channel_backward(
    gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    dx = torch.empty_like(x)
    if x.numel():
        grid, sizes, tile = channel_grid(x, towers)
        options = (bias is not None, relu)
        own_bias = x if bias is None else bias
        channel_backward_kernel[grid](gradient, x, own_bias, dx, *sizes, CHANNEL_K, alpha / WINDOW, *options, *tile)
    return dx


def channel_grid(x: torch.Tensor, towers: int) -> tuple[tuple[int, int, int], tuple[int, int], tuple[int, ...]]:
    """((programs, towers, blocks of maps), (pixels, maps of a tower), (parts, pixels, maps, halo of a program))."""
    pixels, maps = x.numel() // x.shape[1], x.shape[1] // towers
    columns = max(16, min(MOST_COLUMNS, triton.next_power_of_2(maps)))
    halo = HALO if maps > columns else 0
    old = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device)[0] < 8
    rows = PIXELS_BEFORE_AMPERE if old else PIXELS
    parts = 3 if x.dtype == torch.float32 else 2  # of 8 bits each
    grid = (triton.cdiv(pixels, rows), towers, triton.cdiv(maps, columns - 2 * halo))
    return grid, (pixels, maps), (parts, rows, columns, halo)


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
def channel_place(pixels, maps, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HALO: tl.constexpr):
    """(where a program's numbers are, their maps, which maps and numbers exist, which of the latter it is to write).

    Maps and whether they exist are [1, COLUMNS]: a bias is loaded under a mask of its own shape.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    own = tl.arange(0, COLUMNS)[None, :]
    column = tl.program_id(2) * (COLUMNS - 2 * HALO) - HALO + own
    known = (column >= 0) & (column < maps)
    there = (row < pixels) & known
    place = (row * tl.num_programs(1) + tl.program_id(1)) * maps + column
    return place, tl.program_id(1) * maps + column, known, there, there & (own >= HALO) & (own < COLUMNS - HALO)


@triton.jit
def load_maps(pointer, bias_pointer, place, column, known, there, BIAS: tl.constexpr, RELU: tl.constexpr):
    """Float32; 0 where there is no map."""
    x = tl.load(pointer + place, mask=there, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_pointer + column, mask=known, other=0.0).to(tl.float32)
    # NaN propagates as in torch, so that divergence is detected.
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) if RELU else x


@triton.jit
def band_of_ones(COLUMNS: tl.constexpr):
    """1 where two maps are in one another's window."""
    row, column = tl.arange(0, COLUMNS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.where((row - column <= 2) & (column - row <= 2), 1.0, 0.0).to(tl.bfloat16)


@triton.jit
def window_sums(numbers, band, PARTS: tl.constexpr):
    """Float32, over the windows of a row.  Matrix units take 8 bits of a number: it is summed in so many parts.

    A number that is infinite or NaN makes its whole row NaN.
    """
    part = numbers.to(tl.bfloat16)
    sums = tl.dot(part, band)
    for _ in tl.static_range(PARTS - 1):
        numbers -= part.to(tl.float32)
        part = numbers.to(tl.bfloat16)
        sums = tl.dot(part, band, sums)
    return sums


@triton.jit
def channel_forward_kernel(
    x_pointer, bias_pointer, y_pointer, pixels, maps, k, a, BIAS: tl.constexpr, RELU: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HALO: tl.constexpr,
):  # fmt: skip
    place, column, known, there, written = channel_place(pixels, maps, ROWS, COLUMNS, HALO)
    x = load_maps(x_pointer, bias_pointer, place, column, known, there, BIAS, RELU)
    d = k + a * window_sums(x * x, band_of_ones(COLUMNS), PARTS)
    tl.store(y_pointer + place, (x * inverse_power(d)).to(y_pointer.dtype.element_ty), mask=written)


@triton.jit
def channel_backward_kernel(
    g_pointer, x_pointer, bias_pointer, dx_pointer, pixels, maps, k, a, BIAS: tl.constexpr, RELU: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HALO: tl.constexpr,
):  # fmt: skip
    place, column, known, there, written = channel_place(pixels, maps, ROWS, COLUMNS, HALO)
    x = load_maps(x_pointer, bias_pointer, place, column, known, there, BIAS, RELU)
    g = tl.load(g_pointer + place, mask=there, other=0.0).to(tl.float32)
    band = band_of_ones(COLUMNS)
    d = k + a * window_sums(x * x, band, PARTS)
    through = g * inverse_power(d)
    root = tl.rsqrt(d)  # once, as the compiler sees; a division would take longer
    dx = through - 1.5 * a * x * window_sums(through * x * (root * root), band, PARTS)
    if RELU:
        dx = tl.where(x > 0, dx, 0.0)
    tl.store(dx_pointer + place, dx.to(dx_pointer.dtype.element_ty), mask=written)


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
    """Backward, first half: g·d^-p, and g·x·d^-(p+1), which the second half sums."""
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
