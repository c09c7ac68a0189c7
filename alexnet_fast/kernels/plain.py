"""The norms in plain torch, for any device and dtype: what a CPU runs, and the reference for the other kernels.

With d = k + a·S(x²), S the sum over a symmetric window of n numbers and p = 0.75:  y = x·d^-p,  and going back
dx = g·d^-p − 2·p·a·x·S(g·x·d^-(p+1)).  Half precision is computed in float32.

To save passes over the numbers, d is computed without its factor a: d/a = S(x² + k/(a·n)), where what lies around the
maps counts as x = 0; then y = a^-p·x·(d/a)^-p.

A CPU works through the maps in blocks that stay in its cache from the first operation to the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

POWER = 0.75
WINDOW = 5
CHANNEL_K = 2.0
SPATIAL_K = 1.0
SPATIAL_ALPHA = 1e-3
BLOCK = 2**19
"""Numbers in a block on a CPU: 2 MB as float32.  Half or twice that is up to a fifth slower on two Zen 5 cores."""


class Window(Protocol):
    """A buffer with a value around it, so that the numbers to be summed are written where the sum reads them."""

    size: int
    """Numbers in the window: n."""

    def __init__(self, block: torch.Tensor, around: float) -> None: ...

    @property
    def inside(self) -> torch.Tensor:
        """Write here, in the shape of a block."""
        ...

    def sum(self) -> torch.Tensor:
        """Over the window around each number inside."""
        ...


class MapWindow:
    """For blocks (rows, towers, C): the 5 maps around each, within its tower."""

    size = WINDOW

    def __init__(self, block: torch.Tensor, around: float) -> None:
        rows, towers, maps = block.shape
        self.padded = block.new_full((rows, towers, maps + 4), around, dtype=wide_dtype(block))
        self.inside = self.padded[:, :, 2:-2]

    def sum(self) -> torch.Tensor:
        return sum_of_five(self.padded, 2)


class PixelWindow:
    """For blocks (N, H, W, C): the 5×5 pixels around each."""

    size = WINDOW**2

    def __init__(self, block: torch.Tensor, around: float) -> None:
        num, height, width, maps = block.shape
        self.padded = block.new_full((num, height + 4, width + 4, maps), around, dtype=wide_dtype(block))
        self.inside = self.padded[:, 2:-2, 2:-2]

    def sum(self) -> torch.Tensor:
        return sum_of_five(sum_of_five(self.padded, 1), 2)


def channel_forward(x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    y = torch.empty_like(x)
    forward(MapWindow, by_tower(x, towers), by_tower(y, towers), CHANNEL_K, alpha / WINDOW, relu)
    return y


def channel_backward(gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    dx = torch.empty_like(x)
    g, own, out = (by_tower(tensor, towers) for tensor in (gradient, x, dx))
    backward(MapWindow, g, own, out, CHANNEL_K, alpha / WINDOW, relu)
    return dx


def spatial_forward(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    forward(PixelWindow, by_pixel(x), by_pixel(y), SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, False)
    return y


def spatial_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    dx = torch.empty_like(x)
    g, own, out = (by_pixel(tensor) for tensor in (gradient, x, dx))
    backward(PixelWindow, g, own, out, SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, False)
    return dx


def forward(window_of: type[Window], x: torch.Tensor, y: torch.Tensor, k: float, a: float, relu: bool) -> None:
    """Writes `y`."""
    share = k / a / window_of.size
    for (squares,), own, out in blocks(window_of, (share,), x, y):
        wide = widen(own).relu() if relu else widen(own)
        power = inverse_power(divisor(squares, wide, share))
        out.copy_(product(power, wide, a**-POWER))


def backward(
    window_of: type[Window],
    gradient: torch.Tensor,
    x: torch.Tensor,
    dx: torch.Tensor,
    k: float,
    a: float,
    relu: bool,
) -> None:
    """Writes `dx`."""
    share = k / a / window_of.size
    for (squares, inner), g, own, out in blocks(window_of, (share, 0.0), gradient, x, dx):
        wide = widen(own).relu() if relu else widen(own)
        d = divisor(squares, wide, share)
        through = product(inverse_power(d), widen(g), a**-POWER)
        torch.mul(through, wide, out=inner.inside).div_(d)
        through.addcmul_(inner.sum(), wide, value=-2.0 * POWER)  # times a, by which d was not multiplied
        out.copy_(through.mul_(wide > 0) if relu else through)


def divisor(squares: Window, wide: torch.Tensor, share: float) -> torch.Tensor:
    """d/a = S(x² + share)"""
    torch.addcmul(wide.new_full((), share), wide, wide, out=squares.inside)
    return squares.sum()


def product(power: torch.Tensor, factor: torch.Tensor, scale: float) -> torch.Tensor:
    """power · factor · scale in one pass; overwrites `power`."""
    return torch.addcmul(power.new_zeros(()), power, factor, value=scale, out=power)


def wide_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def widen(x: torch.Tensor) -> torch.Tensor:
    return x.to(wide_dtype(x))


def inverse_power(d: torch.Tensor) -> torch.Tensor:
    """d^-0.75, without the slow general power."""
    root = d.rsqrt()
    return root.sqrt().mul_(root)


def by_tower(x: torch.Tensor, towers: int) -> torch.Tensor:
    """Dense channels-last maps -> (N·H·W, towers, maps of one), no copy."""
    num, maps, height, width = x.shape
    return x.permute(0, 2, 3, 1).view(num * height * width, towers, maps // towers)


def by_pixel(x: torch.Tensor) -> torch.Tensor:
    """Dense channels-last maps -> (N, H, W, C), no copy."""
    return x.permute(0, 2, 3, 1)


def blocks(window_of: type[Window], around: Sequence[float], *tensors: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    """Windows, one for each value around, and the tensors, in pieces: of `BLOCK` numbers on a CPU, whole on a GPU."""
    num = len(tensors[0])
    if num == 0:
        return
    rows = max(1, BLOCK // tensors[0][0].numel()) if tensors[0].device.type == "cpu" else num
    windows: list[Window] = []
    for first in range(0, num, rows):
        pieces = [tensor[first : first + rows] for tensor in tensors]
        if not windows or len(pieces[0]) < rows:
            windows = [window_of(pieces[0], value) for value in around]
        yield windows, *pieces


def sum_of_five(padded: torch.Tensor, dim: int) -> torch.Tensor:
    """Of each number and its four followers along `dim`, which gets 4 shorter."""
    size = padded.shape[dim] - 4
    pairs = padded.narrow(dim, 0, size + 2) + padded.narrow(dim, 1, size + 2)
    return (pairs.narrow(dim, 0, size) + pairs.narrow(dim, 2, size)).add_(padded.narrow(dim, 4, size))
