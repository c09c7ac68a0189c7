"""The four-layer network of the paper's Figure 1, and one training of it that stops at 25 % training error.

The paper says no more of it than that.  The model is that of the CIFAR-10 nets that come with the 2012 program
(cuda-convnet, example-layers/layers-18pct.cfg): three 5×5 convolutions of 32, 32 and 64 maps, each followed by max
pooling of 3×3 pixels with stride 2, and one fully connected layer; here without its norms, with max pooling in all
three places (there the last two average), and with one learning rate for weights and biases (there biases have twice
that of the weights).  No weight decay, dropout, normalization, or augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from alexnet_fast.config.precision import Precision
from alexnet_fast.experiments.cifar import Cifar

MAPS = (32, 32, 64)
KERNEL = 5
BATCH_SIZE = 128
MOMENTUM = 0.9
MEASURED = 10_000
"""Training images, the same after each epoch, on which the training error is measured; all where there are fewer."""
GOAL = 0.25
"""Training error that ends a trial: Figure 1's dashed line."""

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


@dataclass(frozen=True)
class Start:
    """How pixels are scaled and weights initialized: the same for both nonlinearities."""

    description: str
    sigmas: tuple[float, float, float, float] | None
    """Standard deviations of the three convolutions' and the last layer's weights; None: 1/√fan-in each."""
    scaled: bool
    """Whether pixels, 0..255 less the mean image, are divided by their standard deviation."""
    first_rate: float
    """Learning rate at which the search begins."""


STARTS = {
    "2012": Start(
        "the 2012 program's layers-18pct.cfg: pixels 0..255 less the mean image, weights N(0, σ²) with σ 0.0001, 0.01, "
        "0.01 and 0.01, biases 0",
        (0.0001, 0.01, 0.01, 0.01),
        False,
        0.001,
    ),
    "fan-in": Start(
        "pixels of unit variance, weights N(0, 1/fan-in), biases 0: what keeps tanh out of its flat ends",
        None,
        True,
        0.01,
    ),
}


@dataclass(frozen=True)
class Prepared:
    """CIFAR-10's training images on the device."""

    images: torch.Tensor
    """(N, 3, 32, 32) float32, contiguous, the mean image subtracted, scaled as `start` says."""
    labels: torch.Tensor
    """(N,) int64."""
    num_classes: int
    start: Start


def prepare(cifar: Cifar, device: torch.device, start: Start) -> Prepared:
    """Subtract the mean image of the training images, and scale."""
    pixels = torch.from_numpy(cifar.train_images).to(device).float()
    pixels -= pixels.mean(0)
    if start.scaled:
        pixels /= pixels.std()
    labels = torch.from_numpy(cifar.train_labels).to(device)
    # Channel by channel: a fifth faster on a CPU than channels-last, whose layers of 3 and 32 maps oneDNN reorders.
    return Prepared(pixels.permute(0, 3, 1, 2).contiguous(), labels, len(cifar.classes), start)


@dataclass
class TrialState:
    """A training after whole epochs; another process can resume from it, to the same weights."""

    epoch: int
    weights: dict[str, torch.Tensor]
    velocities: dict[str, torch.Tensor]


def initial_state(num_classes: int, seed: int, start: Start) -> TrialState:
    """The weights before the first step; the same for both nonlinearities."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    seen = 3
    for number, maps in enumerate(MAPS, 1):
        shapes[f"conv{number}"] = (maps, seen, KERNEL, KERNEL)
        seen = maps
    shapes["fc"] = (num_classes, MAPS[-1] * 4 * 4)
    weights: dict[str, torch.Tensor] = {}
    for place, (name, shape) in enumerate(shapes.items()):
        sigma = 1 / math.sqrt(math.prod(shape[1:])) if start.sigmas is None else start.sigmas[place]
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * sigma
        weights[f"{name}.bias"] = torch.zeros(shape[0])
    return TrialState(0, weights, {name: torch.zeros_like(value) for name, value in weights.items()})


def forward(
    weights: dict[str, torch.Tensor], images: torch.Tensor, activate: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """(N, 3, 32, 32) -> logits (N, classes).  Pooling before a monotone activation is the same, and less work."""
    x = images
    for number in range(1, len(MAPS) + 1):
        x = F.conv2d(x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"], padding=KERNEL // 2)
        x = activate(F.max_pool2d(x, 3, 2, ceil_mode=True))
    return F.linear(x.flatten(1), weights["fc.weight"], weights["fc.bias"])


class Training:
    """One trial: an activation, a constant learning rate, a seed."""

    def __init__(
        self, data: Prepared, activation: str, lr: float, seed: int, precision: Precision, state: TrialState | None
    ) -> None:
        """`state`: where to continue; None starts anew."""
        self.data, self.lr, self.seed = data, lr, seed
        self.activate = ACTIVATIONS[activation]
        self.device = data.images.device
        self.state = state if state is not None else initial_state(data.num_classes, seed, data.start)
        move = {name: value.to(self.device) for name, value in self.state.weights.items()}
        self.state.weights = {name: value.requires_grad_() for name, value in move.items()}
        self.state.velocities = {name: value.to(self.device) for name, value in self.state.velocities.items()}
        dtype = torch.float32 if precision.scaled else precision.dtype  # float16 would need a scaled loss
        self.autocast = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def epochs(self) -> Iterator[tuple[int, float]]:
        """(epochs done, training error after them), from the state's epoch on, without end; NaN where it diverged.

        An untrained network's error comes as epoch 0.
        """
        if self.state.epoch == 0:
            yield 0, self.error()
        while True:
            finite = self.one_epoch()
            self.state.epoch += 1
            yield self.state.epoch, self.error() if finite else math.nan

    def one_epoch(self) -> bool:
        """Every image once, in an order of the seed and the epoch alone; whether the weights are still finite."""
        generator = torch.Generator().manual_seed(self.seed * 10_007 + self.state.epoch + 1)
        order = torch.randperm(len(self.data.labels), generator=generator).to(self.device)
        for chosen in torch.split(order, BATCH_SIZE):
            with self.autocast:
                logits = forward(self.state.weights, self.data.images[chosen], self.activate)
            loss = F.cross_entropy(logits.float(), self.data.labels[chosen])
            names = list(self.state.weights)
            gradients = torch.autograd.grad(loss, [self.state.weights[name] for name in names])
            with torch.no_grad():
                for name, gradient in zip(names, gradients, strict=True):
                    velocity = self.state.velocities[name]
                    velocity.mul_(MOMENTUM).sub_(gradient, alpha=self.lr)
                    self.state.weights[name].add_(velocity)
        return all(bool(value.isfinite().all()) for value in self.state.weights.values())

    @torch.no_grad()
    def error(self) -> float:
        """Share of the measured training images (0..1) whose first guess is wrong."""
        count = min(MEASURED, len(self.data.labels))
        # Spread over the set, which class folders give class by class.
        chosen = torch.linspace(0, len(self.data.labels) - 1, count, dtype=torch.float64).long().to(self.device)
        wrong = 0
        for part in torch.split(chosen, 1000):
            with self.autocast:
                logits = forward(self.state.weights, self.data.images[part], self.activate)
            wrong += int((logits.argmax(1) != self.data.labels[part]).sum())
        return wrong / count


def epochs_to_goal(errors: list[float], goal: float = GOAL) -> float | None:
    """Epochs after which the error first was `goal`, by a straight line between two epochs; None: never.

    errors: after 0, 1, 2, … epochs.
    """
    for epoch, error in enumerate(errors):
        if error <= goal:
            if epoch == 0:
                return 0.0
            before = errors[epoch - 1]
            return epoch - 1 + (before - goal) / (before - error)
    return None
