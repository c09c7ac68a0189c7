"""What a run is told, and the pictures it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from alexnet_fast.mesh import Mesh
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.precision import Precision
from alexnet_fast.recipe import Recipe
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError


class StoppedError(UserError):
    """A signal asked for the end; everything is saved."""


class Loader(Protocol):
    """What training needs of a loader: `TrainingLoader` and `SyntheticLoader` have it."""

    num_batches: int

    def epoch(self, number: int, *, noise: bool = True) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """What every process of a run is told."""

    dataset: Dataset
    recipe: Recipe
    run: Path
    resume: bool
    quiet: bool
    deterministic: bool


def make_loader(mesh: Mesh, device: torch.device, job: Job, precision: Precision) -> Loader:
    """This process's share of the training pictures."""
    recipe = job.recipe
    # float16 holds pixels less their mean to a sixteenth of a step or finer, and DALI makes it for nothing on a GPU.
    half = device.type == "cuda" and precision.name != "fp32"
    return TrainingLoader(
        job.dataset,
        batch_size=mesh.share_batch(recipe.batch_size),
        device=device,
        seed=recipe.seed,
        rank=mesh.data_rank,
        num_ranks=mesh.num_data_ranks,
        dtype=torch.float16 if half else torch.float32,
        mean=recipe.mean,
        noise=recipe.noise,
        noise_divisor=recipe.noise_divisor,
        shuffle_buffer=recipe.shuffle_buffer,
    )
