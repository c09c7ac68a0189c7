"""What people use instead, written as they write it; only to measure against.

`PlainAlexNet` is a plain port of our networks: nn.Conv2d(groups=2), F.local_response_norm, nn.Dropout's place and
nothing else done for speed.  `TORCHVISION_LAYERS` is torchvision's AlexNet (after "One weird trick", 2014), which has
one tower, other widths and no norms.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_fast.network.model import Architecture


class PlainAlexNet(nn.Module):
    """(N, 3, 224, 224) -> (N, classes), as a port that follows the paper line by line."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.a = a = architecture
        groups = a.num_towers
        m1, m2, m3, m4, m5 = a.maps
        self.conv1 = nn.Conv2d(3, m1, 11, 4)
        self.conv2 = nn.Conv2d(m1, m2, 5, padding=2, groups=groups)
        self.conv3 = nn.Conv2d(m2, m3, 3, padding=1)
        self.conv4 = nn.Conv2d(m3, m4, 3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(m4, m5, 3, padding=1, groups=groups)
        self.fc6 = nn.Linear(m5 * 36, a.units[0])
        self.fc7 = nn.Linear(a.units[0], a.units[1])
        self.fc8 = nn.Linear(a.units[1], a.num_classes)
        self.pool = nn.MaxPool2d(3, 2)
        self.dropout = nn.Dropout(0.5)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Each tower's maps for themselves."""
        # local_response_norm knows no bfloat16 on a CPU.
        wide = x.float() if x.device.type == "cpu" else x
        parts = [
            F.local_response_norm(part, 5, self.a.norm_alpha, 0.75, 2.0) for part in wide.chunk(self.a.num_towers, 1)
        ]
        return torch.cat(parts, 1).to(x.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv1(F.pad(images, (0, 3, 0, 3)))
        x = F.relu(self.pool(self.norm(x) if "conv1" in self.a.norms else x))
        x = F.relu(self.conv2(x))
        x = self.norm(x) if "conv2" in self.a.norms else x
        if "conv2-spatial" in self.a.norms:
            x = x / (1 + 1e-3 * F.avg_pool2d(x * x, 5, 1, 2)).pow(0.75)
        x = F.relu(self.conv3(self.pool(x)))
        x = F.relu(self.conv4(x))
        x = F.relu(self.pool(self.conv5(x)))
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout(F.relu(self.fc7(x)))
        logits: torch.Tensor = self.fc8(x)
        return logits


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
    """A training step as tutorials have it: autocast, cross-entropy, torch.optim.SGD."""

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
