"""How many threads compute on a CPU: torch's operations and the compiled loops take the same number."""

from __future__ import annotations

import os

import torch

from alexnet_fast.tools.cores import chosen_threads, num_cores
from alexnet_fast.tools.openmp import describe_waiting


def use_threads() -> None:
    """Take as many threads as this process has cores; what the user set, --threads or OMP_NUM_THREADS, comes first."""
    if chosen_threads() is not None or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cores())


def describe_threads() -> str:
    """Half a sentence: how many there are, why, and how they wait."""
    why = "for each core one"
    if chosen_threads() is not None:
        why = "as asked"
    elif "OMP_NUM_THREADS" in os.environ:
        why = "as OMP_NUM_THREADS says"
    return f"CPU threads: {torch.get_num_threads()} ({why}); they wait by {describe_waiting()}"
