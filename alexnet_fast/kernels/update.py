"""The optimizer's update of one tensor in one pass over memory: gradient in, weight, momentum and working copy out."""

from __future__ import annotations

import torch


def update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    *,
    rate: torch.Tensor,
    momentum: float,
    decay: float,
    gradient_scale: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """v ← momentum·v − rate·(gradient·gradient_scale + decay·w);  w ← w + v;  working ← w.

    All tensors but the 0-dim `rate`, `gradient_scale` and `alive` have the same shape and strides.  Where `alive` is
    False nothing changes.
    """
    plain_update(weight, velocity, gradient, working, rate, momentum, decay, gradient_scale, alive)


def plain_update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    working: torch.Tensor | None,
    rate: torch.Tensor,
    momentum: float,
    decay: float,
    gradient_scale: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """In plain torch, on a CPU: it looks at `alive`, which on a GPU would be a wait."""
    if not bool(alive):
        return
    slope = gradient.to(weight.dtype).mul(gradient_scale.to(weight.dtype)).add_(weight, alpha=decay)
    velocity.mul_(momentum).sub_(slope.mul_(rate.to(weight.dtype)))
    weight.add_(velocity)
    if working is not None:
        working.copy_(weight)
