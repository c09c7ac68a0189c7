"""The norms in plain torch, for any device and dtype: the reference for the other kernels.

With d = k + a·S(x²), S the sum over a symmetric window of n numbers and p = 0.75:  y = x·d^-p,  and backward
dx = g·d^-p − 2·p·a·x·S(g·x·d^-(p+1)).  Half precision is computed in float32.  d is computed as S(k/n + a·x²), where
what lies around the maps counts as x = 0: one pass less.

A CPU works through the maps in blocks that stay in its cache from the first operation to the last, each in the same
memory as the block before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch

POWER = 0.75
WINDOW = 5
CHANNEL_K = 2.0
SPATIAL_K = 1.0
SPATIAL_ALPHA = 1e-3
BLOCK = 2**18
"""Numbers in a block for each of a CPU's threads, 1 MB as float32.

Half of it is a tenth slower; twice that is a little faster forward, and up to a quarter slower backward.
"""


class Window(Protocol):
    """A buffer with a value around it, so that the numbers to be summed are written where the sum reads them."""

    size: int
    """Numbers in the window: n."""

    def __init__(self, block: torch.Tensor, around: float) -> None: ...

    @property
    def inside(self) -> torch.Tensor:
        """Write here, in the shape of a block."""
        ...

    def sum(self, out: torch.Tensor) -> torch.Tensor:
        """Over the window around each number inside, into `out`, in the shape of a block."""
        ...


class MapWindow:
    """For blocks (rows, towers, C): the 5 maps around each, within its tower."""

    size = WINDOW

    def __init__(self, block: torch.Tensor, around: float) -> None:
        rows, towers, maps = block.shape
        self.padded = wide_like(block, (rows, towers, maps + 4)).fill_(around)
        self.inside = self.padded[:, :, 2:-2]
        self.pairs = wide_like(block, (rows, towers, maps + 2))

    def sum(self, out: torch.Tensor) -> torch.Tensor:
        return sum_of_five(self.padded, 2, self.pairs, out)


class PixelWindow:
    """For blocks (N, H, W, C): the 5×5 pixels around each."""

    size = WINDOW**2

    def __init__(self, block: torch.Tensor, around: float) -> None:
        num, height, width, maps = block.shape
        self.padded = wide_like(block, (num, height + 4, width + 4, maps)).fill_(around)
        self.inside = self.padded[:, 2:-2, 2:-2]
        self.down_pairs = wide_like(block, (num, height + 2, width + 4, maps))
        self.down = wide_like(block, (num, height, width + 4, maps))
        self.pairs = wide_like(block, (num, height, width + 2, maps))

    def sum(self, out: torch.Tensor) -> torch.Tensor:
        return sum_of_five(sum_of_five(self.padded, 1, self.down_pairs, self.down), 2, self.pairs, out)


class ForwardBuffers:
    """What a block is computed in, in float32 or wider."""

    def __init__(self, window_of: type[Window], block: torch.Tensor, k: float) -> None:
        self.x = wide_like(block, block.shape)
        self.d = wide_like(block, block.shape)
        self.squares = window_of(block, k / window_of.size)
        self.share = self.x.new_full((), k / window_of.size)


class BackwardBuffers(ForwardBuffers):
    """Its gradient."""

    def __init__(self, window_of: type[Window], block: torch.Tensor, k: float) -> None:
        super().__init__(window_of, block, k)
        self.through = wide_like(block, block.shape)
        self.power = wide_like(block, block.shape)
        self.inner = window_of(block, 0.0)


def channel_forward(
    x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    x = with_bias(x, bias)
    y = torch.empty_like(x)
    forward(MapWindow, by_tower(x, towers), by_tower(y, towers), CHANNEL_K, alpha / WINDOW, relu)
    return y


def channel_backward(
    gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    x = with_bias(x, bias)
    dx = torch.empty_like(x)
    g, own, out = (by_tower(tensor, towers) for tensor in (gradient, x, dx))
    backward(MapWindow, g, own, out, CHANNEL_K, alpha / WINDOW, relu)
    return dx


def with_bias(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Adds the bias in place: on a CPU the convolution usually has added it."""
    return x if bias is None else x + bias[:, None, None]


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
    make_buffers = partial(ForwardBuffers, window_of, k=k)
    for buffers, own, out in blocks(make_buffers, x, y):
        wide, d = start(buffers, own, a, relu)
        out.copy_(wide.div_(to_the_power(d, out=d)))


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
    make_buffers = partial(BackwardBuffers, window_of, k=k)
    for buffers, g, own, out in blocks(make_buffers, gradient, x, dx):
        wide, d = start(buffers, own, a, relu)
        through = buffers.through.copy_(g).div_(to_the_power(d, out=buffers.power))
        torch.mul(through, wide, out=buffers.inner.inside).div_(d)
        through.addcmul_(buffers.inner.sum(out=d), wide, value=-2.0 * POWER * a)
        if relu:
            torch.ops.aten.threshold_backward.grad_input(through, wide, 0, grad_input=through)
        out.copy_(through)


def start(buffers: ForwardBuffers, own: torch.Tensor, a: float, relu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(x in float32 or wider, after its ReLU if any; d), both in the buffers."""
    wide = buffers.x.copy_(own)
    if relu:
        wide.relu_()
    torch.addcmul(buffers.share, wide, wide, value=a, out=buffers.squares.inside)
    return wide, buffers.squares.sum(out=buffers.d)


def to_the_power(d: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """d^0.75.  torch's `pow` is fast for -0.5 and 3: there it is twice as fast as `rsqrt` and thrice as `sqrt`."""
    return torch.pow(d, -0.5, out=out).pow_(-0.5).pow_(3)


def wide_like(block: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialized buffer in float32, or float64 for a float64 block."""
    return block.new_empty(shape, dtype=torch.float64 if block.dtype == torch.float64 else torch.float32)


def by_tower(x: torch.Tensor, towers: int) -> torch.Tensor:
    """Dense channels-last maps -> (N·H·W, towers, maps of one), no copy."""
    num, maps, height, width = x.shape
    return x.permute(0, 2, 3, 1).view(num * height * width, towers, maps // towers)


def by_pixel(x: torch.Tensor) -> torch.Tensor:
    """Dense channels-last maps -> (N, H, W, C), no copy."""
    return x.permute(0, 2, 3, 1)


def blocks(make_buffers: Callable[[torch.Tensor], Any], *tensors: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    """Buffers and the tensors in pieces: of `BLOCK` numbers for each thread on a CPU, whole on a GPU."""
    num = len(tensors[0])
    if num == 0:
        return
    on_cpu = tensors[0].device.type == "cpu"
    rows = max(1, BLOCK * torch.get_num_threads() // tensors[0][0].numel()) if on_cpu else num
    buffers = None
    for first in range(0, num, rows):
        pieces = [tensor[first : first + rows] for tensor in tensors]
        if buffers is None or len(pieces[0]) < rows:
            buffers = make_buffers(pieces[0])
        yield buffers, *pieces


def sum_of_five(padded: torch.Tensor, dim: int, pairs: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Of each number and its four followers along `dim`, which is 4 shorter in `out`; 2 shorter in `pairs`."""
    size = padded.shape[dim] - 4
    torch.add(padded.narrow(dim, 0, size + 2), padded.narrow(dim, 1, size + 2), out=pairs)
    torch.add(pairs.narrow(dim, 0, size), pairs.narrow(dim, 2, size), out=out)
    return out.add_(padded.narrow(dim, 4, size))
