"""The compiled loops applied to torch tensors: what a CPU runs in bfloat16 and float32.

Maps are dense channels-last.  The formulas are those of `plain`, which stays for other dtypes and as the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.network.kernels import numba_maps, numba_step
from alexnet_fast.network.kernels.plain import CHANNEL_K, SPATIAL_ALPHA, SPATIAL_K, WINDOW
from alexnet_fast.network.kernels.threads import share

F32 = np.float32
UPDATED = 2**18
"""Elements that a thread updates at a time."""
DROPPED = 8
"""Rows that a thread drops from at a time."""


def pool_forward(
    x: torch.Tensor,
    y: torch.Tensor,
    places: torch.Tensor,
    pool_size: int,
    *,
    norm: tuple[int, float] | None,
    relu_first: bool,
    relu_last: bool,
) -> None:
    """ReLU (if relu_first), norm across maps (if `norm`: towers, alpha), max pooling, ReLU (if relu_last).

    Writes y and, for each of its numbers, in which pixel of its window the maximum was, row by row from 0.
    """
    towers, a = norm_options(norm)
    options = (towers, F32(CHANNEL_K), a, pool_size, norm is not None, relu_first, relu_last)
    share(numba_maps.pool_forward, (pixels(x), pixels(y), pixels(places)), len(x), 1, options)


def pool_backward(
    x: torch.Tensor | None,
    gradient: torch.Tensor,
    places: torch.Tensor,
    dx: torch.Tensor,
    pool_size: int,
    *,
    norm: tuple[int, float] | None,
    relu_first: bool,
) -> None:
    """Writes the gradient of `pool_forward`'s x; x may be None where there was neither a norm nor a ReLU first."""
    towers, a = norm_options(norm)
    arrays = (pixels(dx if x is None else x), pixels(gradient), pixels(places), pixels(dx))
    options = (towers, F32(CHANNEL_K), a, pool_size, norm is not None, relu_first)
    share(numba_maps.pool_backward, arrays, len(dx), 1, options)


def norm_options(norm: tuple[int, float] | None) -> tuple[int, np.float32]:
    return (1, F32(0)) if norm is None else (norm[0], F32(norm[1] / WINDOW))


def channel_forward(
    x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    x, y = with_bias(x, bias), torch.empty_like(x)
    options = (towers, F32(CHANNEL_K), F32(alpha / WINDOW), relu)
    share(numba_maps.norm_forward, (pixels(x), pixels(y)), len(x), 1, options)
    return y


def channel_backward(
    gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool, bias: torch.Tensor | None = None
) -> torch.Tensor:
    x, dx = with_bias(x, bias), torch.empty_like(x)
    options = (towers, F32(CHANNEL_K), F32(alpha / WINDOW), relu)
    share(numba_maps.norm_backward, (pixels(x), pixels(gradient), pixels(dx)), len(x), 1, options)
    return dx


def with_bias(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Adds the bias in place, in plain torch: on a CPU the convolution usually has added it."""
    return x if bias is None else x + bias[:, None, None]


def spatial_forward(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    options = (F32(SPATIAL_K), F32(SPATIAL_ALPHA / WINDOW**2))
    share(numba_maps.spatial_forward, (pixels(x), pixels(y)), len(x), 1, options)
    return y


def spatial_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    dx = torch.empty_like(x)
    options = (F32(SPATIAL_K), F32(SPATIAL_ALPHA / WINDOW**2))
    share(numba_maps.spatial_backward, (pixels(x), pixels(gradient), pixels(dx)), len(x), 1, options)
    return dx


def update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    slope: float,
    fade: float,
    momentum: float,
) -> None:
    """v ← momentum·v − slope·gradient − fade·w;  w ← w + v;  working ← w.  One-dimensional tensors."""
    copied = gradient if working is None else working
    arrays = (weight.numpy(), velocity.numpy(), array_of(gradient), array_of(copied))
    share(numba_step.update, arrays, len(weight), UPDATED, (F32(slope), F32(fade), F32(momentum), working is not None))


def fold(images: torch.Tensor, cells: int, dtype: torch.dtype) -> torch.Tensor:
    """`alexnet_fast.network.layers.fold_images` of float32 images."""
    num = len(images)
    folded = torch.empty((num, 48, cells, cells), dtype=dtype, memory_format=torch.channels_last)
    share(numba_step.fold, (pixels(images), pixels(folded)), num, 1, ())
    return folded


def zero_dropped(
    x: torch.Tensor, key: torch.Tensor, layer: int, first_row: int, first_unit: int, threshold: int
) -> torch.Tensor:
    """(rows, units) -> the same, 0 where the unit's hash is below `threshold`, 0..2**32-1.  `key`: 0-dim int64."""
    y = torch.empty_like(x)
    options = (np.uint32((int(key) + layer) & 0xFFFF_FFFF), first_row, first_unit, np.uint32(threshold))
    share(numba_step.zero_dropped, (array_of(x.detach()), array_of(y)), len(x), DROPPED, options)
    return y


def pixels(maps: torch.Tensor) -> npt.NDArray[Any]:
    """Dense channels-last maps -> (N, H, W, C), no copy."""
    return array_of(maps.detach().permute(0, 2, 3, 1))


def array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor's memory; bfloat16 as uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
