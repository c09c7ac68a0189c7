"""Baseline models and their usual training step; for measurements only.

Beside `inference.plain.PlainAlexNet`, a plain port of our networks, that is torchvision's AlexNet (after "One weird
trick", 2014), which has one tower, other widths and no norms.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def torchvision_alexnet(num_classes: int) -> nn.Sequential:
    """The layer list of torchvision.models.alexnet."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )  # fmt: skip


class PlainStep:
    """The usual training step: autocast, cross-entropy, torch.optim.SGD."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.dtype = device, dtype
        self.call: Any = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.SGD(network.parameters(), 1e-6, 0.9, weight_decay=5e-4)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = F.cross_entropy(self.call(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()
