"""Locates the origin of a loss or gradient that is not finite: recomputes the step without its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.model import LAYERS, AlexNet, loss_and_errors
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.tools.errors import UserError


class DivergedError(UserError):
    """The loss or a gradient became NaN or infinite, or a label is none of the classes."""


@dataclass(frozen=True)
class Suspects:
    """A step that diverged, and its inputs."""

    model: AlexNet
    working: Mapping[str, torch.Tensor]
    """The weights that it computed with, by parameter name."""
    mesh: Mesh
    scale: torch.Tensor
    """Of the loss, 0-dim."""
    batch: Batch
    dropout: DropoutKey

    def first_to_blame(self) -> str:
        """The first label, weight, image, output or gradient that is not finite or out of range, described.

        All ranks call it together.
        """
        found = self.first_bad_output()
        if not any(all_gather_object(self.mesh, found)):
            found = self.first_bad_gradient()
        suspects = [suspect for suspect in all_gather_object(self.mesh, found) if suspect is not None]
        return min(suspects)[1] if suspects else "the second time all numbers were finite: look at the GPU's health"

    def first_bad_output(self) -> tuple[int, str] | None:
        """(position in the forward pass, description) of the first weight, image, label or output that is wrong."""
        bad: list[str] = []
        for name, tensor in self.model.named_parameters():
            if not is_finite(tensor):
                bad.append(f"{name} itself is not finite: it was so when it was loaded")
        if not is_finite(self.batch.images):
            bad.append("the first to blame is the images")
        num_classes = self.model.architecture.num_classes
        if not bool(labels_are_known(self.batch.labels, num_classes)):
            labels = self.batch.labels
            wrong = int(labels[(labels < 0) | (labels >= num_classes)][0])
            bad.insert(
                0,
                f"a sample has label {wrong}, and there are {num_classes:,} classes: the shards were altered after "
                "they were made, `alexnet-fast verify` lists which",
            )
        outputs: list[tuple[int, str]] = []

        def observe(layer: str, output: torch.Tensor) -> None:
            if not is_finite(output):
                outputs.append((1 + len(seen), f"the first to blame is the output of {layer}"))
            seen.append(layer)

        seen: list[str] = []
        with torch.no_grad():
            logits = self.model(self.batch.images, self.dropout, weights=self.working, observe=observe)
            loss, _ = self.loss_and_errors(logits)
        if not is_finite(loss):
            outputs.append((1 + len(seen), "the first to blame is the loss itself: fc8's outputs are too far apart"))
        return (0, bad[0]) if bad else outputs[0] if outputs else None

    def first_bad_gradient(self) -> tuple[int, str] | None:
        """(position in the backward pass, description) of the first layer whose weights' gradients are not finite."""
        logits = self.model(self.batch.images, self.dropout, weights=self.working)
        loss, _ = self.loss_and_errors(logits)
        learning = {name: tensor for name, tensor in self.working.items() if tensor.requires_grad}
        gradients = torch.autograd.grad(loss * self.scale, list(learning.values()))
        finite = {name: is_finite(gradient) for name, gradient in zip(learning, gradients, strict=True)}
        for place, layer in enumerate(reversed(LAYERS)):
            if not (finite.get(f"{layer}.weight", True) and finite.get(f"{layer}.bias", True)):
                return place, f"the first to blame is the gradient of {layer}"
        return None

    def loss_and_errors(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return loss_and_errors(logits, self.batch.labels.clamp(0, logits.shape[1] - 1))


def is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def labels_are_known(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """0-dim bool: whether each label is one of the classes.  The host is not synchronized."""
    return ((labels >= 0) & (labels < num_classes)).all()
