"""The norms in plain torch, for any device and dtype: the reference for the other kernels, and a CPU's last resort.

With d = k + a·S(x²), S the sum over a symmetric window and p = 0.75:  y = x·d^-p,  and going back
dx = g·d^-p − 2·p·a·x·S(g·x·d^-(p+1)).  Half precision is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

POWER = 0.75
WINDOW = 5
CHANNEL_K = 2.0
SPATIAL_K = 1.0
SPATIAL_ALPHA = 1e-3

Sum = Callable[[torch.Tensor], torch.Tensor]


def channel_forward(x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    return forward(x, CHANNEL_K, alpha / WINDOW, lambda t: channel_sum(t, towers), relu)


def channel_backward(gradient: torch.Tensor, x: torch.Tensor, towers: int, alpha: float, relu: bool) -> torch.Tensor:
    return backward(gradient, x, CHANNEL_K, alpha / WINDOW, lambda t: channel_sum(t, towers), relu)


def spatial_forward(x: torch.Tensor) -> torch.Tensor:
    return forward(x, SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, spatial_sum, False)


def spatial_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return backward(gradient, x, SPATIAL_K, SPATIAL_ALPHA / WINDOW**2, spatial_sum, False)


def forward(x: torch.Tensor, k: float, a: float, window_sum: Sum, relu: bool) -> torch.Tensor:
    wide = widen(x).relu() if relu else widen(x)
    d = window_sum(wide * wide).mul_(a).add_(k)
    return (wide * inverse_power(d)).to(x.dtype)


def backward(g: torch.Tensor, x: torch.Tensor, k: float, a: float, window_sum: Sum, relu: bool) -> torch.Tensor:
    wide = widen(x).relu() if relu else widen(x)
    g = widen(g)
    d = window_sum(wide * wide).mul_(a).add_(k)
    scale = inverse_power(d)
    inner = window_sum(g * wide * scale / d)
    dx = (g * scale).sub_(inner.mul_(wide), alpha=2.0 * POWER * a)
    return (dx * (wide > 0) if relu else dx).to(x.dtype)


def widen(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def inverse_power(d: torch.Tensor) -> torch.Tensor:
    """d^-0.75, without the slow general power."""
    root = d.rsqrt()
    return root * root.sqrt()


def channel_sum(x: torch.Tensor, towers: int) -> torch.Tensor:
    """Sum over the 5 maps around each, within its tower: a product with a banded matrix, C columns wide."""
    maps = x.shape[1]
    place = torch.arange(maps, device=x.device)
    near = (place[:, None] - place[None, :]).abs() <= WINDOW // 2
    same = place[:, None] // (maps // towers) == place[None, :] // (maps // towers)
    rows = x.permute(0, 2, 3, 1)
    return (rows @ (near & same).to(x.dtype)).permute(0, 3, 1, 2)


def spatial_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over the 5×5 pixels around each; what is outside counts as 0."""
    half = WINDOW // 2
    tall = F.avg_pool2d(x, (WINDOW, 1), 1, (half, 0), divisor_override=1)
    return F.avg_pool2d(tall, (1, WINDOW), 1, (0, half), divisor_override=1)
