"""What a layer sees of one image, and which part of the image decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.inference.evaluation import Predictor
from alexnet_fast.network import layers
from alexnet_fast.report.images import Pixels, png

Floats = npt.NDArray[np.floating[Any]]

PATCH, STRIDE = 48, 16
"""Pixels: a gray square is moved over the image."""
BATCH = 32


@dataclass(frozen=True)
class Maps:
    """One layer's maps of one tower, side by side."""

    layer: str
    tower: int
    image: str
    count: int
    size: int
    """Pixels on a side of a map."""


def layer_maps(predictor: Predictor, view: torch.Tensor) -> list[Maps]:
    """view: (1, 3, 224, 224).  conv1 and conv2 come before norm and pooling, conv5 after it; negatives are black."""
    model, weights = predictor.model, predictor.weights
    observed: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        model(view, weights=weights, observe=observed.__setitem__)
        conv1 = layers.biased(layers.conv1(view, weights["conv1.weight"], weights["conv1.bias"]))
        conv2 = layers.biased(
            layers.convolve(
                observed["norm1+pool1"], weights["conv2.weight"], weights["conv2.bias"],
                model.architecture.conv2_padding, len(model.towers),
            )
        )  # fmt: skip
    made = []
    for name, maps in (("conv1", conv1), ("conv2", conv2), ("conv5", observed["conv5"])):
        for tower, block in enumerate(maps[0].float().cpu().chunk(model.architecture.num_towers)):
            made.append(Maps(name, tower, png(mosaic(block.numpy())), len(block), block.shape[-1]))
    return made


def mosaic(maps: Floats) -> Pixels:
    """(C, h, w) -> (H, W): maps side by side, each with its own contrast, 0 and less black."""
    count, height, width = maps.shape
    columns = int(np.ceil(np.sqrt(count * 1.6)))
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1), dtype=np.uint8)
    for number, single in enumerate(maps):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        largest = max(float(single.max()), 1e-12)
        sheet[y : y + height, x : x + width] = (np.clip(single / largest, 0, 1) * 255).round().astype(np.uint8)
    return sheet


@dataclass(frozen=True)
class Occlusion:
    """How much a hidden part matters."""

    image: str
    """The drop of the probability as a red layer of the view's size, transparent where nothing was lost."""
    probability: float
    """Of the class with the whole image."""
    lowest: float
    """With the most important part hidden."""


def occlusion_map(predictor: Predictor, view: torch.Tensor, label: int) -> Occlusion:
    """Hide a square with the mean color, wherever it fits, and see what becomes of the class's probability.

    view: (1, 3, 224, 224), as the network takes it.
    """
    size = view.shape[-1]
    corners = list(range(0, size - PATCH + 1, STRIDE))
    hidden = []
    for y in corners:
        for x in corners:
            covered = view.clone()
            covered[:, :, y : y + PATCH, x : x + PATCH] = 0  # the mean is subtracted already
            hidden.append(covered)
    with torch.inference_mode():
        batches = [view, *(torch.cat(hidden[start : start + BATCH]) for start in range(0, len(hidden), BATCH))]
        found = [predictor.model(batch, weights=predictor.weights).float().softmax(1)[:, label] for batch in batches]
    whole, *rest = (part.cpu().numpy() for part in found)
    values = np.concatenate(rest)
    drop, times = np.zeros((size, size)), np.zeros((size, size))
    for number, value in enumerate(values):
        y, x = corners[number // len(corners)], corners[number % len(corners)]
        drop[y : y + PATCH, x : x + PATCH] += whole[0] - value
        times[y : y + PATCH, x : x + PATCH] += 1
    drop = np.clip(drop / np.maximum(times, 1), 0, None)
    strength = drop / max(float(drop.max()), 1e-12)
    layer = np.zeros((size, size, 4), dtype=np.uint8)
    layer[..., 0], layer[..., 1] = 226, 60
    layer[..., 3] = (strength * 190).round().astype(np.uint8)
    return Occlusion(png(layer), float(whole[0]), float(values.min()))
