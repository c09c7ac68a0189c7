"""AlexNet's forward pass in numpy and float64, written from the formulas alone and for clarity, not speed.

Each tower is computed by itself: maps (N, C, H, W).
"""

from __future__ import annotations

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


def forward(images: Array, state: dict[str, Array], recipe: str) -> Array:
    """Logits at test time.  `state`: whole tensors.  `recipe`: "2012", "2013" or "paper"."""
    paper = recipe == "paper"
    alpha_over_5 = 5e-4 / 5 if paper else 1e-4 / 5

    def halves(name: str) -> list[Array]:
        return np.split(state[name], 2)

    towers = []
    for weight, bias in zip(halves("conv1.weight"), halves("conv1.bias"), strict=True):
        x = convolve(images, weight, bias, 4, 0, 3)
        assert x.shape[2:] == (55, 55)
        if paper:
            x = max_pool(norm_across_maps(relu(x), alpha_over_5))
        else:
            x = relu(max_pool(norm_across_maps(x, alpha_over_5)))
        towers.append(x)
    for t in range(2):
        x = relu(convolve(towers[t], halves("conv2.weight")[t], halves("conv2.bias")[t], 1, 2, 2))
        if recipe != "2013":
            x = norm_across_maps(x, alpha_over_5)
        if recipe == "2012":
            x = norm_across_pixels(x)
        towers[t] = max_pool(x)
    both = np.concatenate(towers, axis=1)
    towers = [relu(convolve(both, halves("conv3.weight")[t], halves("conv3.bias")[t], 1, 1, 1)) for t in range(2)]
    for t in range(2):
        x = relu(convolve(towers[t], halves("conv4.weight")[t], halves("conv4.bias")[t], 1, 1, 1))
        x = convolve(x, halves("conv5.weight")[t], halves("conv5.bias")[t], 1, 1, 1)
        towers[t] = relu(max_pool(x))
    x = np.concatenate(towers, axis=1)
    assert x.shape[1:] == (256, 6, 6)
    x = 0.5 * relu(np.tensordot(x, state["fc6.weight"], axes=((1, 2, 3), (1, 2, 3))) + state["fc6.bias"])
    x = 0.5 * relu(x @ state["fc7.weight"].T + state["fc7.bias"])
    return np.asarray(x @ state["fc8.weight"].T + state["fc8.bias"])
