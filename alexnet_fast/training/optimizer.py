"""The authors' gradient descent: v ← 0.9·v + ε·g − 5e-4·ε·w;  w ← w + v, where g points downhill.

Biases have a rate of their own and no decay.  Weights and momentum are float32 (or float64 in a float64 network) and
hold this process's towers only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from alexnet_fast.network.kernels.update import update
from alexnet_fast.network.model import AlexNet, own_rows, whole_tensor


class SGD:
    """Momentum, decay, and three rates: of the weights, of the biases, and of conv1's weights."""

    def __init__(self, model: AlexNet, *, momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        self.model = model
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.parameters = dict(model.named_parameters())
        self.velocities = {
            name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in self.parameters.items()
        }
        device = next(model.parameters()).device
        # On the device, so that a captured CUDA graph reads the rates of the day.
        self.rates = {
            kind: torch.zeros((), device=device, dtype=torch.float64) for kind in ("weights", "biases", "conv1")
        }

    def set_rates(self, *, weights: float, biases: float, conv1: float | None = None) -> None:
        """Learning rates ε from the next step on; `conv1`: of its weights, None: as the others."""
        self.rates["weights"].fill_(weights)
        self.rates["biases"].fill_(biases)
        self.rates["conv1"].fill_(weights if conv1 is None else conv1)

    def step(
        self,
        gradients: Mapping[str, torch.Tensor],
        *,
        gradient_scale: torch.Tensor,
        alive: torch.Tensor,
        working: Mapping[str, torch.Tensor],
    ) -> None:
        """One update.

        `gradients`: of the loss (uphill) by parameter name, each to be multiplied by `gradient_scale` (0-dim float32).
        `alive`: 0-dim bool; where it is False nothing changes.  `working`: half-precision copies to bring up to
        date, of those parameters that have one.
        """
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                bias = name.endswith("bias")
                rate = self.rates["biases" if bias else "conv1" if name == "conv1.weight" else "weights"]
                update(
                    parameter,
                    self.velocities[name],
                    gradients[name],
                    working.get(name),
                    rate=rate,
                    momentum=self.momentum,
                    decay=0.0 if bias else self.weight_decay,
                    gradient_scale=gradient_scale,
                    alive=alive,
                )

    def whole_state(self) -> dict[str, torch.Tensor]:
        """Parameter name -> whole momentum on the CPU; both towers' processes must call it together."""
        return {name: whole_tensor(self.model, name, velocity) for name, velocity in self.velocities.items()}

    def load_whole_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take this process's rows of whole momentum tensors."""
        for name, velocity in self.velocities.items():
            velocity.copy_(own_rows(self.model, name, tensors[name]))
