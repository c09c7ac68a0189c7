"""A run from its arguments to its result: layout, checks, processes, and what each of them does."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.config.recipe import Recipe
from alexnet_fast.distributed.devices import be_deterministic, cost_of_determinism
from alexnet_fast.distributed.launcher import LostProcessError, launch
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.parallelism import Layout, choose_layout
from alexnet_fast.distributed.signals import StopSignals
from alexnet_fast.pipelines.decoded_cache import CacheSize, check_gpu_memory
from alexnet_fast.pipelines.settings import check_splits
from alexnet_fast.runs.checkpoint_manager import lack_of_room
from alexnet_fast.runs.folder import RunFolder, saying_what_is_full
from alexnet_fast.runs.resume import check_before_start
from alexnet_fast.runs.resume_command import options_to_repeat, with_command
from alexnet_fast.tools.caches import place_caches
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.training.header import advice, header
from alexnet_fast.training.job import Job, check_enough_classes, doubt_of_data
from alexnet_fast.training.result import finish
from alexnet_fast.training.session import open_session

FIRST_SIGNAL = "Stopping: saving as soon as this step is done …  Ctrl-C again stops at once."


def train(
    dataset: Dataset,
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    checkpoint: Path | None = None,
    device: str | None = None,
    gpus: int | None = None,
    processes: int | None = None,
    parallel: str = "auto",
    quiet: bool = False,
    deterministic: bool = False,
    cache_decoded: CacheSize | None = None,
) -> dict[str, Any]:
    """Train, or resume; what result.json holds.

    `resume`: the run that lies in the folder.  `checkpoint`: start from this one, not from the run's newest; a run's
    newer ones are set aside.
    `cache_decoded` is that of `Job`.  The other arguments are those of `parallelism.choose_layout`.  Raises UserError,
    and StoppedError when a signal asked for the end: then everything is saved.
    """
    if resume:
        check_before_start(RunFolder(run), recipe)
    check_enough_classes(dataset)
    layout = choose_layout(
        recipe.architecture(len(dataset.classes)),
        recipe.batch_size,
        precision=recipe.precision_to_train_in,
        device=device,
        gpus=gpus,
        processes=processes,
        parallel=parallel,
    )
    if cache_decoded is not None:
        check_gpu_memory(layout.device.type)
    mesh = Mesh(world_size=layout.num_processes, split=layout.split)
    check_recipe_fits(recipe, dataset, mesh)
    dataset.check_sizes()
    options = options_to_repeat(
        device=device, gpus=gpus, processes=processes, parallel=parallel, deterministic=deterministic,
        cache_decoded=cache_decoded,
    )  # fmt: skip
    job = Job(dataset, recipe, run, resume, quiet, deterministic, cache_decoded, options, checkpoint)
    place_caches(RunFolder(run).caches)
    if layout.started:
        return launch(layout, work_of_a_process, layout, job)
    try:
        with RunFolder(run).taken(resume=resume):
            return launch(layout, work_of_a_process, layout, job)
    except LostProcessError as error:
        raise UserError(with_command(f"{error} To resume from the last checkpoint", job.again)) from error


def check_recipe_fits(recipe: Recipe, dataset: Dataset, mesh: Mesh) -> None:
    """UsageError where the data set has not what the recipe needs, or the processes cannot share it."""
    if recipe.exact_2012 and mesh.num_replicas > 1:
        raise UsageError(
            f"exact_2012 with {mesh.num_replicas} replicas: in 2012 there was one. Give --gpus 1, or --gpus 2 "
            "--parallel towers (on a CPU --processes 2), or train without exact_2012"
        )
    if recipe.val_split not in ("val", *dataset.splits):
        raise UsageError(
            f"{dataset.folder} has no {recipe.val_split} split to evaluate on after each epoch: it has "
            f"{', '.join(dataset.splits)}. Give one of them as --val-split"
        )
    if recipe.final_split not in ("val", *dataset.splits):
        raise UsageError(
            f"{dataset.folder} has no {recipe.final_split} split, on which recipe {recipe.name} is evaluated at the "
            f"end: shard it with the {recipe.final_split} images, or give --set final_split=val"
        )
    ranks = 1 if recipe.exact_2012 else mesh.num_data_ranks
    check_splits(
        dataset,
        batch_size=recipe.batch_size if recipe.exact_2012 else mesh.share_batch(recipe.batch_size),
        num_ranks=ranks,
        num_evaluation_ranks=mesh.num_replicas,
        evaluated=(recipe.val_split, recipe.final_split),
    )


def work_of_a_process(mesh: Mesh, device: torch.device, layout: Layout, job: Job) -> dict[str, Any]:
    """One process's part in the run."""
    if job.deterministic:
        be_deterministic()
    folder = RunFolder(job.run)
    with contextlib.ExitStack() as stack:
        if layout.started and mesh.is_main_rank:  # torchrun's processes have no parent that did it
            stack.enter_context(folder.taken(resume=job.resume or folder.holds_a_run()))
        mesh.barrier()
        stack.enter_context(saying_what_is_full(job.run, job.again))
        signals = stack.enter_context(StopSignals("" if job.quiet or not mesh.is_main_rank else FIRST_SIGNAL))
        session = open_session(mesh, device, job, signals)
        stack.callback(session.close)
        session.telemetry.say(
            header(
                job.dataset, session.schedule, layout=layout.reason, device=device, precision=session.precision,
                run=job.run, step=session.progress.step, resume=job.again,
            )
        )  # fmt: skip
        for note in advice(job.dataset, session.schedule, device):
            session.telemetry.say(note)
        if (doubt := doubt_of_data(job.dataset)) is not None:
            session.telemetry.say(doubt)
        if (
            lack := lack_of_room(folder.checkpoints, session.model.architecture, job.recipe.keep_checkpoints)
        ) is not None:
            session.telemetry.say(lack)
        if session.loader.cache is not None:
            session.telemetry.say(session.loader.cache.describe())
        if job.deterministic:
            session.telemetry.say(cost_of_determinism(device))
        return session.run(finish)
