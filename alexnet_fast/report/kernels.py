"""conv1's kernels: drawn as in Figure 3, scored by their color, and over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.report.images import Pixels, png

Floats = npt.NDArray[np.floating[Any]]

ROWS = 3
"""Of kernels for each tower, as in Figure 3."""
FILM_FRAMES = 8
FILM_KERNELS = 16
"""Kernels of each tower in the filmstrip."""


@dataclass(frozen=True)
class Sheet:
    """One tower's kernels."""

    tower: int
    images: list[str]
    """A PNG of 11×11 pixels for each kernel."""
    scores: list[float]
    columns: int

    @property
    def mean_score(self) -> float:
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Frame:
    """The kernels after an epoch."""

    epoch: int
    images: list[list[str]]
    """Tower -> PNGs of its first kernels."""


def color_score(kernel: Floats) -> float:
    """(3, h, w) -> 0..1: the share of a kernel's energy that is in color.

    Each pixel is split into its gray part, the mean of R, G and B, and what is left.  0: the three colors are alike, a
    kernel that sees shape alone; 1: they add up to zero everywhere, a kernel that sees color alone.  A kernel of zeros
    has 0.
    """
    kernel = np.asarray(kernel, dtype=np.float64)
    total = float((kernel**2).sum())
    if total == 0.0:
        return 0.0
    return float(((kernel - kernel.mean(0)) ** 2).sum() / total)


def kernel_pixels(kernel: Floats) -> Pixels:
    """(3, h, w) -> (h, w, 3): gray is zero, each kernel with its own contrast."""
    largest = max(float(np.abs(kernel).max()), 1e-12)
    scaled = 127.5 + 127.5 * np.asarray(kernel, dtype=np.float64).transpose(1, 2, 0) / largest
    return np.asarray(scaled.round(), dtype=np.uint8)


def sheets(conv1: Floats, num_towers: int) -> list[Sheet]:
    """conv1: (maps, 3, h, w), tower 0's first."""
    made = []
    for tower, block in enumerate(np.split(np.asarray(conv1), num_towers)):
        images = [png(kernel_pixels(kernel)) for kernel in block]
        made.append(Sheet(tower, images, [color_score(kernel) for kernel in block], -(-len(block) // ROWS)))
    return made


def verdict(made: list[Sheet]) -> str:
    """Whether the towers share out color and shape, in a sentence."""
    if len(made) == 1:
        return f"One tower; its mean color score is {made[0].mean_score:.2f}."
    low, high = sorted(made, key=lambda sheet: sheet.mean_score)
    scores = f"mean color scores {made[0].mean_score:.2f} (tower 0) and {made[1].mean_score:.2f} (tower 1)"
    apart = standard_error(low) + standard_error(high)
    if high.mean_score - low.mean_score > 2 * apart:
        return f"The towers divide the work, as in 2012: tower {high.tower} takes more of the color ({scores})."
    return f"No tower has taken the color: {scores}, a difference within the scatter of the kernels."


def standard_error(sheet: Sheet) -> float:
    """Of the mean score."""
    return float(np.std(sheet.scores) / np.sqrt(len(sheet.scores)))


def filmstrip(history: Mapping[int, Floats], initial: Floats, num_towers: int) -> list[Frame]:
    """A few epochs, evenly spread, of the kernels that changed most; weights minus initial weights.

    history: epoch -> conv1's weights after it.
    """
    epochs = sorted(epoch for epoch in history if epoch > 0)
    if not epochs:
        return []
    places = np.unique(np.linspace(0, len(epochs) - 1, min(FILM_FRAMES, len(epochs))).round().astype(int))
    change = np.abs(history[epochs[-1]].astype(np.float32) - initial).sum((1, 2, 3))
    towers = np.split(np.arange(len(initial)), num_towers)
    shown = [np.sort(own[np.argsort(-change[own], kind="stable")[:FILM_KERNELS]]) for own in towers]
    frames = []
    for place in places:
        difference = history[epochs[place]].astype(np.float32) - initial
        frames.append(Frame(epochs[place], [[png(kernel_pixels(difference[k])) for k in block] for block in shown]))
    return frames
