"""The norms in plain torch, for any device and dtype: what a CPU runs, and the reference for the other kernels.

With d = k + a·S(x²), S the sum over a symmetric window and p = 0.75:  y = x·d^-p,  and going back
dx = g·d^-p − 2·p·a·x·S(g·x·d^-(p+1)).  Half precision is computed in float32.

A CPU works through the maps in blocks that stay in its cache from the first operation to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

POWER = 0.75
WINDOW = 5
CHANNEL_K = 2.0
SPATIAL_K = 1.0
SPATIAL_ALPHA = 1e-3
BLOCK = 3 * 2**18
"""Numbers in a block on a CPU: 3 MB as float32.  Half or four times that is up to a third slower on two Zen 5 cores."""

Sum = Callable[[torch.Tensor], torch.Tensor]


def channel_forward(x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    y = torch.empty_like(x)
    for own, out in blocks(by_tower(x, towers), by_tower(y, towers)):
        forward(own, out, CHANNEL_K, alpha / WINDOW, sum_over_maps, relu)
    return y


def channel_backward(gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    dx = torch.empty_like(x)
    for g, own, out in blocks(by_tower(gradient, towers), by_tower(x, towers), by_tower(dx, towers)):
        backward(g, own, out, CHANNEL_K, alpha / WINDOW, sum_over_maps, relu)
    return dx


def spatial_forward(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    for own, out in blocks(by_pixel(x), by_pixel(y)):
        forward(own, out, SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, sum_over_pixels, False)
    return y


def spatial_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    dx = torch.empty_like(x)
    for g, own, out in blocks(by_pixel(gradient), by_pixel(x), by_pixel(dx)):
        backward(g, own, out, SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, sum_over_pixels, False)
    return dx


def forward(x: torch.Tensor, y: torch.Tensor, k: float, a: float, window_sum: Sum, relu: bool) -> None:
    """Writes `y`."""
    wide = widen(x).relu() if relu else widen(x)
    power = inverse_power(window_sum(wide * wide).mul_(a).add_(k))
    torch.mul(wide, power, out=power)
    y.copy_(power)


def backward(
    g: torch.Tensor, x: torch.Tensor, dx: torch.Tensor, k: float, a: float, window_sum: Sum, relu: bool
) -> None:
    """Writes `dx`."""
    wide = widen(x).relu() if relu else widen(x)
    d = window_sum(wide * wide).mul_(a).add_(k)
    through = inverse_power(d.clone()).mul_(widen(g))
    inner = window_sum((through * wide).div_(d))
    through.addcmul_(inner, wide, value=-2.0 * POWER * a)
    dx.copy_(through.mul_(wide > 0) if relu else through)


def widen(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def inverse_power(d: torch.Tensor) -> torch.Tensor:
    """d^-0.75 in the place of d, without the slow general power."""
    root = d.rsqrt_()
    return root * root.sqrt()


def by_tower(x: torch.Tensor, towers: int) -> torch.Tensor:
    """Dense channels-last maps -> (N·H·W, towers, maps of one), no copy."""
    num, maps, height, width = x.shape
    return x.permute(0, 2, 3, 1).view(num * height * width, towers, maps // towers)


def by_pixel(x: torch.Tensor) -> torch.Tensor:
    """Dense channels-last maps -> (N, H, W, C), no copy."""
    return x.permute(0, 2, 3, 1)


def blocks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The tensors together in pieces of dimension 0: of `BLOCK` numbers on a CPU, whole on a GPU."""
    first = tensors[0]
    if first.device.type != "cpu" or not first.numel():
        yield tensors
        return
    rows = max(1, BLOCK // first[0].numel())
    yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def sum_over_maps(x: torch.Tensor) -> torch.Tensor:
    """(rows, towers, C) -> the sum over the 5 maps around each, within its tower."""
    return sum_of_five(F.pad(x, (2, 2)), 2)


def sum_over_pixels(x: torch.Tensor) -> torch.Tensor:
    """(N, H, W, C) -> the sum over the 5×5 pixels around each; what is outside counts as 0."""
    return sum_of_five(sum_of_five(F.pad(x, (0, 0, 2, 2, 2, 2)), 1), 2)


def sum_of_five(padded: torch.Tensor, dim: int) -> torch.Tensor:
    """Of each number and its four followers along `dim`, which gets 4 shorter."""
    size = padded.shape[dim] - 4

    def shifted(tensor: torch.Tensor, by: int) -> torch.Tensor:
        return tensor.narrow(dim, by, size)

    pairs = padded.narrow(dim, 0, size + 2) + padded.narrow(dim, 1, size + 2)
    return (shifted(pairs, 0) + shifted(pairs, 2)).add_(shifted(padded, 4))
