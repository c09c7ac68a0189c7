"""The job that every process of a run gets, and the loader of its training images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import Recipe
from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.pipelines.augmentation import Augmentation
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoded_cache import CachePlan, CacheRequest, CacheSize, LoaderMemory
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.runs.resume_command import resume_command
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted
from alexnet_fast.training.memory import training_bytes

EVALUATION_BATCH = 128
"""Images of each process in an evaluation."""
FEW_IMAGES = 10
"""Of a class, on the average: with fewer the network memorizes images and does not generalize."""


class Loader(Protocol):
    """What training needs of a loader: `TrainingLoader` and `SyntheticLoader` have it."""

    batch_size: int
    num_batches: int
    dtype: torch.dtype
    memory: LoaderMemory
    cache: CachePlan | None

    def epoch(self, number: int, *, pca_jitter: bool = True) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def pause(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """A run as it was asked for; every process has the same."""

    dataset: Dataset
    recipe: Recipe
    run: Path
    resume: bool
    quiet: bool
    deterministic: bool
    cache_decoded: CacheSize | None = None
    """GiB of each GPU's memory for decoded images, or "auto"; None keeps none."""
    options: tuple[str, ...] | None = ()
    """Options of `train` to repeat when the run is resumed; see `resume_command`."""

    checkpoint: Path | None = None
    """What to start from, instead of the run's newest."""

    @property
    def again(self) -> str:
        """The command that resumes the run."""
        return resume_command(self.dataset.folder, self.run, self.options)


def check_enough_classes(dataset: Dataset) -> None:
    """UsageError with fewer than two classes."""
    if len(dataset.classes) < 2:
        raise UsageError(
            f"{dataset.folder} has {counted(len(dataset.classes), 'class', 'classes')}, training needs at least 2: "
            "give shards of a folder with a folder of images for each class"
        )


def doubt_of_data(dataset: Dataset) -> str | None:
    """A warning before a run on these images; None: nothing."""
    samples, classes = dataset.split("train").samples, len(dataset.classes)
    if samples >= FEW_IMAGES * classes:
        return None
    return (
        f"{dataset.folder} has {counted(samples, 'training image')} of {counted(classes, 'class', 'classes')}, "
        f"{samples / classes:.2g} each: too few to learn from, other images will not be recognized. "
        "Give hundreds of each class, or take the run as a trial of the program."
    )


def check_same_job(mesh: Mesh, job: Job) -> None:
    """UserError, on every rank, where another machine has other shards in that folder, or another recipe.

    All ranks call it together.
    """
    folder = job.dataset.folder
    for what, own, remedy in (
        (f"shards in {folder}", job.dataset.fingerprint, "Copy the folder again to all of them"),
        ("recipes", job.recipe.to_toml(), "Copy the recipe's file again to all of them"),
    ):
        if len(set(all_gather_object(mesh, own))) > 1:
            raise UserError(f"The machines have different {what}, and would train on together unnoticed. {remedy}.")


def make_loader(mesh: Mesh, device: torch.device, job: Job, precision: Precision) -> Loader:
    """This process's share of the training images."""
    recipe = job.recipe
    # float16 holds pixels less their mean to a sixteenth of a step or finer, and DALI makes it for nothing on a GPU.
    half = device.type == "cuda" and precision.name != "fp32"
    return TrainingLoader(
        job.dataset,
        batch_size=recipe.batch_size if recipe.exact_2012 else mesh.share_batch(recipe.batch_size),
        device=device,
        seed=recipe.seed,
        # As in 2012 there is one stream; towers in two processes both read all of it.
        rank=0 if recipe.exact_2012 else mesh.data_rank,
        num_ranks=1 if recipe.exact_2012 else mesh.num_data_ranks,
        dtype=torch.float16 if half else torch.float32,
        mean=recipe.mean,
        augmentation=Augmentation(
            crop_and_mirror=recipe.crop_and_mirror,
            pca_jitter=recipe.pca_jitter,
            pca_jitter_divisor=recipe.pca_jitter_divisor,
            pca_jitter_scale=recipe.pca_jitter_scale,
        ),
        exact_2012=recipe.exact_2012,
        shuffle_buffer=recipe.shuffle_buffer,
        leaves_residual=True,  # the step subtracts it on the way into its CUDA graph
        cache=None
        if job.cache_decoded is None
        else CacheRequest(job.cache_decoded, memory_of_training(mesh, job, precision)),
    )


def memory_of_training(mesh: Mesh, job: Job, precision: Precision) -> int:
    """Bytes that this process will take on its device, the loader's not counted."""
    architecture = job.recipe.architecture(len(job.dataset.classes))
    towers = (mesh.tower,) if mesh.split else tuple(range(architecture.num_towers))
    images = mesh.share_batch(job.recipe.batch_size) * mesh.processes_per_replica
    return training_bytes(architecture, precision.dtype, towers, images=images, evaluated=EVALUATION_BATCH)
