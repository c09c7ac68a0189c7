"""Throughput (img/s) of the trainer: its overhead over the bare step, and end to end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from alexnet_fast.bench.measurement import Measurement, finish, measure_rate
from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.recipe import Recipe
from alexnet_fast.distributed.launcher import launch
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.parallelism import choose_layout
from alexnet_fast.distributed.signals import StopSignals
from alexnet_fast.network.model import AlexNet
from alexnet_fast.pipelines.synthetic import SyntheticLoader
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.temporary import temporary_folder
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.job import Job, Loader
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.session import Session, open_session
from alexnet_fast.training.train_step import TrainingStep

WARM_UP = 3
"""Steps before the clock runs."""
REPETITIONS = 3


def steps_for(device: torch.device) -> int:
    """Steps of one repetition."""
    return 100 if device.type == "cuda" else 8


def measure_training(dataset: Dataset, recipe: Recipe, *, device: torch.device) -> Measurement:
    """`train` on real images, without validation and checkpoints."""
    return measure_trainer("training end to end", dataset, recipe, device, None)


def measure_trainer_overhead(recipe: Recipe, dataset: Dataset, *, device: torch.device) -> list[Measurement]:
    """The bare step and the trainer around it, both on synthetic batches."""
    loader = synthetic(recipe, dataset, device)
    bare = measure_bare_step(recipe, dataset, loader, device)
    trainer = measure_trainer("trainer, synthetic input", dataset, recipe, device, loader)
    details = {**trainer.details, "of the bare step": f"{trainer.rate / bare.rate:.1%}"}
    return [bare, replace(trainer, details=details)]


def synthetic(recipe: Recipe, dataset: Dataset, device: torch.device) -> SyntheticLoader:
    """Batches like the trainer's."""
    half = device.type == "cuda" and choose_precision(device, recipe.precision).name != "fp32"
    dtype = torch.float16 if half else torch.float32
    return SyntheticLoader(recipe.batch_size, 10_000, len(dataset.classes), device, dtype)


def measure_bare_step(recipe: Recipe, dataset: Dataset, loader: SyntheticLoader, device: torch.device) -> Measurement:
    """Nothing but `TrainingStep`."""
    model = AlexNet(recipe.architecture(len(dataset.classes))).to(device)
    model.initialize(recipe.seed)
    optimizer = SGD(model, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    optimizer.set_rates(weights=1e-6, biases=1e-6)  # pca_jitter is nothing to learn from
    step = TrainingStep(model, optimizer, precision=choose_precision(device, recipe.precision))
    batches = loader.epoch(0)
    choose_convolutions(step, recipe.batch_size)
    if recipe.cuda_graph and device.type == "cuda":  # as a run does
        step.capture(recipe.batch_size, loader.dtype)
    number = 0

    def work(count: int) -> None:
        nonlocal number
        for _ in range(count):
            step(next(batches), step=number, seed=0)
            number += 1
        finish(device)

    work(WARM_UP)
    steps = steps_for(device)
    rate, spread = measure_rate(steps * recipe.batch_size, lambda: work(steps), repetitions=REPETITIONS)
    return Measurement("bare step, synthetic input", rate, spread, {"batch size": recipe.batch_size})


def measure_processes(dataset: Dataset, recipe: Recipe, *, gpus: int | None, processes: int | None) -> Measurement:
    """`train` on so many GPUs, or processes on the CPU, as it would spread itself; img/s of all together."""
    layout = choose_layout(
        recipe.architecture(len(dataset.classes)), recipe.batch_size, precision=recipe.precision_to_train_in, gpus=gpus,
        processes=processes,
    )  # fmt: skip
    count = counted(layout.num_processes, "GPU" if gpus is not None else "process", None if gpus else "processes")
    return launch(layout, measure_in_process, f"training end to end, {count}", dataset, recipe)


def measure_in_process(mesh: Mesh, device: torch.device, name: str, dataset: Dataset, recipe: Recipe) -> Measurement:
    """One process's part in `measure_processes`."""
    return measure_trainer(name, dataset, recipe, device, None, mesh)


def measure_trainer(
    name: str, dataset: Dataset, recipe: Recipe, device: torch.device, loader: Loader | None, mesh: Mesh | None = None
) -> Measurement:
    """The trainer's loop over several epochs' worth of steps; the evaluations between them do not count."""
    slow = replace(
        recipe, lr_weights=(1e-6,), lr_weights_milestones=(0.0,), lr_biases=(1e-6,), lr_biases_milestones=(0.0,),
        epochs=1e6, schedule_epochs=1e6, warmup_epochs=0.0,
    )  # fmt: skip
    with temporary_folder("bench") as folder:
        run = folder / "run"
        (run / "checkpoints").mkdir(parents=True)
        session = open_session(
            mesh or Mesh(), device, Job(dataset, slow, run, False, True, False), StopSignals(), loader
        )
        session.trainer.hooks = session.trainer.hooks[:1]  # the meter is read as in a run; no evaluation, no checkpoint
        try:
            rates = run_steps(session, steps_for(device), device)
            if session.meter.images:
                session.meter.read()
            wait = session.meter.totals.data_wait or 0.0
        finally:
            session.close()
    middle = sorted(rates)[len(rates) // 2]
    details: dict[str, Any] = {"batch size": recipe.batch_size, "waiting for data": f"{wait:.1%}"}
    return Measurement(name, middle, (max(rates) - min(rates)) / 2 / middle, details)


def run_steps(session: Session, steps: int, device: torch.device) -> list[float]:
    """Images/s of each repetition."""
    numbers = (number for _ in iter(int, 1) for number in session.trainer.steps_of_epoch())  # epoch after epoch

    def work(count: int) -> None:
        for _ in range(count):
            next(numbers)
        finish(device)

    work(WARM_UP)
    rates = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        work(steps)
        rates.append(steps * session.job.recipe.batch_size / (time.perf_counter() - begun))
    return rates
