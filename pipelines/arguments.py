"""Conversion of the loaders' arguments: a path to a data set, a string to a device."""

from __future__ import annotations

from pathlib import Path

import torch

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError


def as_dataset(data: Dataset | Path | str) -> Dataset:
    """The data set, read from a shards folder where its path is given."""
    return data if isinstance(data, Dataset) else Dataset.load(data)


def as_device(device: torch.device | str | None) -> torch.device:
    """None: the current GPU where there is one, else the CPU.  UsageError for a device that is not there."""
    if device is None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device is {device!r}: give 'cpu', 'cuda' or 'cuda:N'") from error
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"device is {str(found)!r}: the loaders work on 'cpu', 'cuda' or 'cuda:N'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device is {str(found)!r}, and torch finds no GPU here: give 'cpu'")
    return found
