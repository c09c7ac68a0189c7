"""Runs that are equal bit for bit on a GPU too, and what that costs."""

from __future__ import annotations

import os

import torch


def be_deterministic() -> None:
    """From now on torch takes reproducible kernels, in this process; to be called before its first product on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses products on a GPU
    torch.use_deterministic_algorithms(True)
    # Else torch fills every new tensor, for programs that read what they never wrote: a pass over memory for each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def cost_of_determinism(device: torch.device) -> str:
    """A sentence: what is slower for it, and how to measure by how much."""
    if device.type == "cpu":
        return "--deterministic costs nothing on a CPU: the same kernels run without it"
    return (
        "--deterministic: cuDNN's reproducible algorithms for the convolutions' gradients, which are slower as a rule; "
        "`alexnet-fast bench model` measures by how much"
    )
