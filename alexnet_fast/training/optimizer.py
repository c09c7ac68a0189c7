"""The authors' gradient descent: v ← 0.9·v + ε·g − 5e-4·ε·w;  w ← w + v, where g points downhill.

Source: src/weights.cu:146-198; paper, section 5.  Biases have a learning rate of their own and no decay.  Weights and
momentum are float32 (or float64 in a float64 network) and hold this process's towers only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from alexnet_fast.network.kernels.update import update
from alexnet_fast.network.model import AlexNet, own_rows, whole_tensor

KINDS = ("weights", "biases", "conv1 weights", "conv1 biases")
"""Tensors with a learning rate of their own."""


class SGD:
    """Momentum, weight decay, and learning rates of four kinds of tensors: `KINDS`."""

    def __init__(self, model: AlexNet, *, momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        self.model = model
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.parameters = dict(model.named_parameters())
        self.velocities = {
            name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in self.parameters.items()
        }
        device = next(model.parameters()).device
        # On the device, so that a captured CUDA graph reads the current learning rates.
        self.rates = torch.zeros(len(KINDS), device=device, dtype=torch.float64)

    def set_rates(
        self, *, weights: float, biases: float, conv1_weights: float | None = None, conv1_biases: float | None = None
    ) -> None:
        """Learning rates from the next step on; None: conv1 has those of the other layers.

        What has a rate of 0 is frozen: neither it nor its momentum changes.
        """
        own = (weights if conv1_weights is None else conv1_weights, biases if conv1_biases is None else conv1_biases)
        for kind, rate in enumerate((weights, biases, *own)):
            self.rates[kind].fill_(rate)  # a kernel each: a copy from the host would wait for the device

    def step(
        self,
        gradients: Mapping[str, torch.Tensor],
        *,
        gradient_scale: torch.Tensor,
        alive: torch.Tensor,
        working: Mapping[str, torch.Tensor],
    ) -> None:
        """One update.

        `gradients`: of the loss (uphill) by parameter name, each to be multiplied by `gradient_scale` (0-dim float32);
        a parameter without one is frozen.
        `alive`: 0-dim bool; where it is False nothing changes.  `working`: half-precision copies to bring up to
        date, of those parameters that have one.
        """
        with torch.no_grad():
            # The program skips the update where the rate is 0 (src/weights.cu:148): momentum must not carry on.
            updated = alive & (self.rates > 0)
            for name, parameter in self.parameters.items():
                if name not in gradients:
                    continue
                bias = name.endswith("bias")
                kind = KINDS.index(f"{'conv1 ' if name.startswith('conv1.') else ''}{'biases' if bias else 'weights'}")
                update(
                    parameter,
                    self.velocities[name],
                    gradients[name],
                    working.get(name),
                    rate=self.rates[kind],
                    momentum=self.momentum,
                    decay=0.0 if bias else self.weight_decay,
                    gradient_scale=gradient_scale,
                    alive=updated[kind],
                )

    def whole_state(self) -> dict[str, torch.Tensor]:
        """Parameter name -> whole momentum on the CPU; the ranks of both towers call it together."""
        return {name: whole_tensor(self.model, name, velocity) for name, velocity in self.velocities.items()}

    def load_whole_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take this process's rows of whole momentum tensors."""
        for name, velocity in self.velocities.items():
            velocity.copy_(own_rows(self.model, name, tensors[name]))
