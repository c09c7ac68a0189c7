"""The network as an ordinary PyTorch module, for whoever wants to build on it, export it or check ours against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_fast.network.layers import CONV1_KERNEL, CONV1_STRIDE, conv1_size
from alexnet_fast.network.model import LAYERS, NETS, Architecture


class PlainAlexNet(nn.Module):
    """(N, 3, 224, 224) RGB 0..255 less the mean -> (N, classes) logits: nn.Conv2d, nn.Linear and nothing of our own.

    It computes what `AlexNet` does, layer by layer, as a port that follows the authors' program line by line; hooks,
    `torch.export`, quantization and surgery work as on any module.  It is also the benchmarks' baseline.
    """

    def __init__(self, architecture: Architecture | None = None) -> None:
        """architecture: None is net 167 with 1,000 classes.  The layers start as PyTorch's do, not as in 2012."""
        super().__init__()
        self.architecture = a = architecture if architecture is not None else NETS["167"]
        towers = a.num_towers
        groups = 1 if a.exchanged else towers
        m1, m2, m3, m4, m5 = a.maps
        beyond = CONV1_STRIDE * (conv1_size(a.image_size) - 1) + CONV1_KERNEL - a.image_size
        self.edge = nn.ZeroPad2d((0, beyond, 0, beyond))
        self.conv1 = nn.Conv2d(3, m1, CONV1_KERNEL, CONV1_STRIDE)
        self.conv2 = nn.Conv2d(m1, m2, 5, padding=a.conv2_padding, groups=towers)
        self.conv3 = nn.Conv2d(m2, m3, 3, padding=1, groups=groups)
        self.conv4 = nn.Conv2d(m3, m4, 3, padding=1, groups=towers)
        self.conv5 = nn.Conv2d(m4, m5, 3, padding=a.conv5_padding, groups=towers)
        self.fc6 = GroupedLinear(m5 * a.last_map_size**2, a.units[0], groups)
        self.fc7 = GroupedLinear(a.units[0], a.units[1], groups)
        self.fc8 = GroupedLinear(a.units[1], a.num_classes, 1)
        self.activation: nn.Module = nn.ReLU() if a.activation == "relu" else nn.Tanh()
        self.pool = nn.MaxPool2d(a.pool_size, 2, ceil_mode=True)
        self.dropout: nn.Module = nn.Dropout(a.dropout) if a.dropout_inverted else Dropout2012(a.dropout)

    @classmethod
    def from_checkpoint(cls, path: Path | str) -> PlainAlexNet:
        """The network of a checkpoint (.pt), a run's folder (its newest) or exported .safetensors, in eval mode.

        Raises UsageError where there is none, UserError where the file is damaged.
        """
        from alexnet_fast.inference.load import read_checkpoint

        _, checkpoint = read_checkpoint(Path(path))
        return cls.from_state(checkpoint.architecture(), checkpoint.model)

    @classmethod
    def from_state(cls, architecture: Architecture, tensors: Mapping[str, torch.Tensor]) -> PlainAlexNet:
        """With the weights of `AlexNet.state_dict()` or of a checkpoint, in eval mode."""
        network = cls(architecture)
        state = {}
        for layer in LAYERS:
            weight = tensors[f"{layer}.weight"]
            state[f"{layer}.weight"] = weight.flatten(1) if layer.startswith("fc") else weight
            state[f"{layer}.bias"] = tensors[f"{layer}.bias"]
        network.load_state_dict(state)
        return network.eval()

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Across the maps of each tower."""
        # local_response_norm knows no bfloat16 on a CPU.
        wide = x.float() if x.device.type == "cpu" and x.dtype == torch.bfloat16 else x
        a = self.architecture
        parts = [F.local_response_norm(part, 5, a.norm_alpha, 0.75, 2.0) for part in wide.chunk(a.num_towers, 1)]
        return torch.cat(parts, 1).to(x.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        a = self.architecture
        x = self.conv1(self.edge(images))
        if a.relu_first:
            x = self.activation(x)
            x = self.pool(self.norm(x) if "conv1" in a.norms else x)
        else:
            x = self.activation(self.pool(self.norm(x) if "conv1" in a.norms else x))
        x = self.activation(self.conv2(x))
        x = self.norm(x) if "conv2" in a.norms else x
        if "conv2-spatial" in a.norms:
            x = x / (1 + 1e-3 * F.avg_pool2d(x * x, 5, 1, 2)).pow(0.75)
        x = self.activation(self.conv3(self.pool(x)))
        x = self.activation(self.conv4(x))
        x = self.activation(self.pool(self.conv5(x)))
        x = self.dropout(self.activation(self.fc6(x.flatten(1))))
        x = self.dropout(self.activation(self.fc7(x)))
        logits: torch.Tensor = self.fc8(x)
        return logits


class GroupedLinear(nn.Linear):
    """nn.Linear; with 2 groups each half of the outputs sees its half of the inputs (towers that never exchange)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs // groups, outputs)
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.groups == 1:
            return super().forward(x)
        parts = zip(x.chunk(self.groups, 1), self.weight.chunk(self.groups), self.bias.chunk(self.groups), strict=True)
        return torch.cat([F.linear(*part) for part in parts], 1)


class Dropout2012(nn.Module):
    """Dropout as in 2012: training zeroes a share `rate` and scales nothing, evaluation multiplies by 1 − rate.

    torch.nn.Dropout scales in training instead; after two layers that quadruples the logits that training starts with.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rate == 0:
            return x
        return x * (torch.rand_like(x) >= self.rate) if self.training else x * (1 - self.rate)

    def extra_repr(self) -> str:
        return f"{self.rate:g}"
