"""What a run has saved last, compared to the bit."""

from __future__ import annotations

from pathlib import Path

import torch

from alexnet_fast.runs.checkpoint import load_checkpoint, saved_checkpoints


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Weights and momentum of the newest checkpoint."""
    checkpoint = load_checkpoint(saved_checkpoints(run / "checkpoints")[-1])
    assert checkpoint.optimizer is not None
    return checkpoint.model | {f"momentum {name}": tensor for name, tensor in checkpoint.optimizer.items()}


def assert_same_state(one: Path, other: Path) -> None:
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
