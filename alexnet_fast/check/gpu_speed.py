"""Throughput on a GPU, of the step and its parts; none of it has run on a GPU yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from alexnet_fast.bench.measurement import finish
from alexnet_fast.bench.model import batch_of, make_step
from alexnet_fast.bench.tower import make_tower_step
from alexnet_fast.bench.tune import has_jpeg_engines
from alexnet_fast.check.gpu import gpu
from alexnet_fast.check.loading import training_rate
from alexnet_fast.check.program import tiny_shards
from alexnet_fast.check.runner import Check, CheckFailedError, Place
from alexnet_fast.config.precision import choose_precision
from alexnet_fast.network.model import NETS
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.train_step import TrainingStep

BATCH_SIZES = (128, 256, 512, 1024, 2048)
TRAINING_STEPS = 300
LOADS = (0.1, 0.3, 0.65, 0.9)


def rate_of(work: Callable[[], object], images: int, device: torch.device, seconds: float = 2.0) -> float:
    """img/s of `work`, called for about so long, after three calls that do not count."""
    for _ in range(3):
        work()
    finish(device)
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        work()
        calls += 1
        if calls % 8 == 0:
            finish(device)
    finish(device)
    return calls * images / (time.perf_counter() - begun)


def step_rate(step: TrainingStep, batch_size: int) -> float:
    """Captured, img/s."""
    choose_convolutions(step, batch_size)
    if step.device.type == "cuda" and (problem := step.capture(batch_size, step.dtype)) is not None:
        raise CheckFailedError(problem)
    batch = batch_of(batch_size, step.device, step.dtype)
    return rate_of(lambda: step(batch, step=0, seed=0), batch_size, step.device)


def measure_steps(place: Place) -> str:
    device = gpu()
    precision = choose_precision(device)
    rates = {size: step_rate(make_step(NETS["167"], device, precision), size) for size in BATCH_SIZES}
    alone = step_rate(make_tower_step(NETS["167"], device, precision), 128)
    text = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
    return f"net 167, captured, {precision.name}, img/s at batch {text}; one tower alone at 128: {alone:,.0f}"


def loader_rate(
    dataset: Dataset, batch_size: int, device: torch.device, options: LoaderOptions, seconds: float = 4.0
) -> float:
    """img/s"""
    with TrainingLoader(
        dataset, batch_size=batch_size, device=device, seed=0, dtype=torch.float16, options=options
    ) as loader:

        def batches() -> Iterator[Batch]:
            for epoch in range(10**6):
                yield from loader.epoch(epoch)

        endless = batches()
        return rate_of(lambda: next(endless), batch_size, device, seconds)


def measure_loader(place: Place) -> str:
    """Of the user's shards where they were given, else of the tiny ones, which the caches hold."""
    device = gpu()
    dataset = Dataset.load(place.data) if place.data is not None else tiny_shards(place)
    batch_size = min(128, dataset.split("train").samples)
    places = {"CUDA cores": LoaderOptions(decode_on="cuda"), "the CPU": LoaderOptions(decode_on="cpu")}
    if has_jpeg_engines(device) is not False:
        places |= {f"engines {load:g}": LoaderOptions(hw_decoder_load=load, decode_on="engines") for load in LOADS}
    rates = {name: loader_rate(dataset, batch_size, device, options) for name, options in places.items()}
    text = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return f"img/s at batch {batch_size}, {num_cores()} threads, decoded on {text}"


def measure_training(place: Place) -> str:
    """As `measure_loader` and `measure_steps`, together: a loader that keeps up is waited for by nobody."""
    device, precision = gpu(), choose_precision(gpu())
    dataset = Dataset.load(place.data) if place.data is not None else tiny_shards(place)
    step = make_step(NETS["167"], device, precision)
    batch_size = min(128, dataset.split("train").samples)
    dtype = torch.float16 if precision.name == "fp16" else torch.float32
    with TrainingLoader(
        dataset, batch_size=batch_size, device=device, seed=0, dtype=dtype, leaves_residual=True
    ) as loader:
        return training_rate(step, loader, TRAINING_STEPS)


MEASUREMENTS = (
    Check("speed: step", measure_steps, "other programs may be using the GPU", 120.0, True),
    Check("speed: loader", measure_loader, "", 120.0, True),
    Check("speed: training", measure_training, "bench --tune finds better loader settings", 120.0, True),
)
