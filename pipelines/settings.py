"""How a loader runs on this machine when nobody says how, and whether what was asked for can be."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError


@dataclass(frozen=True)
class LoaderSettings:
    """What changes the speed of a loader and not what it gives."""

    num_threads: int
    prefetch: int
    hw_decoder_load: float
    """Share of a batch for the GPU's JPEG engines, 0..1; means nothing on a CPU."""


def default_settings(
    device: torch.device, num_threads: int | None, prefetch: int | None, hw_decoder_load: float | None
) -> LoaderSettings:
    """What was asked for, filled up with defaults."""
    return LoaderSettings(
        num_threads=num_threads if num_threads is not None else num_cores(),
        prefetch=prefetch if prefetch is not None else 2,
        hw_decoder_load=hw_decoder_load if hw_decoder_load is not None else 0.65,
    )


def num_cores() -> int:
    """Cores that this process may use, shared evenly among the processes of this machine."""
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // local_processes)


def check_batch(
    dataset: Dataset, split: str, *, batch_size: int, rank: int, num_ranks: int, num_threads: int | None
) -> None:
    """UsageError where a split cannot be given out in such batches to so many ranks."""
    samples = dataset.split(split).samples
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: give 1 or more.")
    if num_threads is not None and num_threads < 1:
        raise UsageError(f"{num_threads} loader threads: give 1 or more.")
    if not 0 <= rank < num_ranks:
        raise UsageError(f"rank {rank} of {num_ranks}: ranks count from 0 to {num_ranks - 1}.")
    if num_ranks > samples:
        raise UsageError(f"{dataset.folder}: its {split} split has {samples} samples for {num_ranks} ranks. Use fewer.")
    if batch_size * num_ranks > samples:
        whole = f"{batch_size} on each of {num_ranks} ranks" if num_ranks > 1 else f"{batch_size}"
        raise UsageError(
            f"{dataset.folder}: its {split} split has {samples} samples, less than one batch of {whole}. "
            f"Use a batch of at most {samples // num_ranks}."
        )
