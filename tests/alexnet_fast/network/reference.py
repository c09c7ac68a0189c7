"""AlexNet's forward pass in numpy and float64, written from the formulas alone and for clarity, not speed.

Each tower is computed by itself: maps (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array, stride: int, before: int, after: int) -> Array:
    """Zeros `before` (left, top) and `after` (right, bottom) each map, then the plain definition."""
    x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    kernel = weight.shape[2]
    windows = sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    y = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))
    return np.asarray(y.transpose(0, 3, 1, 2) + bias[:, None, None])


def norm_across_maps(x: Array, alpha_over_5: float) -> Array:
    """One tower's maps."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        window = x[:, max(0, c - 2) : c + 3]
        y[:, c] = x[:, c] / (2 + alpha_over_5 * (window**2).sum(1)) ** 0.75
    return y


def norm_across_pixels(x: Array) -> Array:
    padded = np.pad(x**2, ((0, 0), (0, 0), (2, 2), (2, 2)))
    sums = sliding_window_view(padded, (5, 5), axis=(2, 3)).sum((4, 5))
    return np.asarray(x / (1 + 1e-3 / 25 * sums) ** 0.75)


def max_pool(x: Array, size: int = 3) -> Array:
    outputs = 1 + int(np.ceil((x.shape[2] - size) / 2))
    y = np.empty((*x.shape[:2], outputs, outputs))
    for i in range(outputs):
        for j in range(outputs):
            y[:, :, i, j] = x[:, :, 2 * i : 2 * i + size, 2 * j : 2 * j + size].max((2, 3))
    return y


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def no_norm(x: Array) -> Array:
    return x


def norm(x: Array) -> Array:
    return norm_across_maps(x, 1e-4 / 5)


def paper_norm(x: Array) -> Array:
    return norm_across_maps(x, 5e-4 / 5)


def norm_twice(x: Array) -> Array:
    return norm_across_pixels(norm(x))


@dataclass(frozen=True)
class Net:
    """What differs between the authors' nets; the defaults are net 145's."""

    towers: int = 2
    exchanged: bool = True
    norm1: Callable[[Array], Array] = norm
    norm2: Callable[[Array], Array] = norm_twice
    relu_before_norm1: bool = False
    activate: Callable[[Array], Array] = relu
    pool: int = 3
    conv2_zeros: int = 2
    conv5_zeros: int = 1


NETS = {
    "145": Net(),
    "167": Net(norm2=no_norm),
    "paper": Net(norm1=paper_norm, norm2=paper_norm, relu_before_norm1=True),
    "145-half": Net(towers=1),
    "147": Net(pool=2, conv2_zeros=1, conv5_zeros=0),
    "148": Net(norm1=no_norm, norm2=no_norm),
    "150": Net(exchanged=False),
    "tanh": Net(norm2=no_norm, activate=np.tanh),
}


def forward(images: Array, state: dict[str, Array], name: str) -> Array:
    """Logits at test time.  `state`: whole tensors.  `name`: of the net."""
    net = NETS[name]
    towers = range(net.towers)

    def own(parameter: str) -> list[Array]:
        return np.split(state[parameter], net.towers)

    def seen(maps: list[Array]) -> list[Array]:
        return [np.concatenate(maps, axis=1)] * net.towers if net.exchanged else maps

    def layer(maps: list[Array], number: int, stride: int, before: int, after: int) -> list[Array]:
        weights, biases = own(f"conv{number}.weight"), own(f"conv{number}.bias")
        return [convolve(maps[t], weights[t], biases[t], stride, before, after) for t in towers]

    def products(units: list[Array], number: int) -> list[Array]:
        weights, biases = own(f"fc{number}.weight"), own(f"fc{number}.bias")
        flat = [w.reshape(len(w), -1) for w in weights]
        return [
            0.5 * net.activate(u.reshape(len(u), -1) @ w.T + b) for u, w, b in zip(units, flat, biases, strict=True)
        ]

    x = layer([images] * net.towers, 1, 4, 0, 3)
    assert x[0].shape[2:] == (55, 55)
    if net.relu_before_norm1:
        x = [max_pool(net.norm1(relu(maps)), net.pool) for maps in x]
    else:
        x = [net.activate(max_pool(net.norm1(maps), net.pool)) for maps in x]
    x = layer(x, 2, 1, net.conv2_zeros, net.conv2_zeros)
    x = [max_pool(net.norm2(net.activate(maps)), net.pool) for maps in x]
    assert x[0].shape[2:] == (13, 13)
    x = [net.activate(maps) for maps in layer(seen(x), 3, 1, 1, 1)]
    x = [net.activate(maps) for maps in layer(x, 4, 1, 1, 1)]
    x = [net.activate(max_pool(maps, net.pool)) for maps in layer(x, 5, 1, net.conv5_zeros, net.conv5_zeros)]
    assert x[0].shape[2:] == (6, 6)
    x = products(seen(x), 6)
    x = products(seen(x), 7)
    return np.asarray(np.concatenate(x, axis=1) @ state["fc8.weight"].T + state["fc8.bias"])
