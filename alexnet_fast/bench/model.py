"""Throughput (img/s) of the network on synthetic input, with its limits and the baseline models."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch

from alexnet_fast.bench.baseline_models import PlainStep, torchvision_alexnet
from alexnet_fast.bench.measurement import Measurement, finish, measure_rate
from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.devices import be_deterministic, start_gpu
from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.network.model import NETS, AlexNet, Architecture
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.synthetic import SyntheticLoader
from alexnet_fast.tools.freed_memory import keep_freed_memory
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

NUM_CLASSES = 1000
REPETITIONS = 5
SECONDS = 2.0
"""Aimed at for one repetition."""


def time_rate(batch_size: int, work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(img/s, spread) of `work`, which does one batch; warm-up and the number of calls are found here."""

    def timed(calls: int) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            work()
        finish(device)
        return time.perf_counter() - begun

    timed(2)
    calls = max(1, round(SECONDS / timed(1)))
    return measure_rate(calls * batch_size, lambda: timed(calls), repetitions=REPETITIONS)


def batch_of(batch_size: int, device: torch.device, dtype: torch.dtype) -> Batch:
    """One synthetic batch."""
    return next(SyntheticLoader(batch_size, 1, NUM_CLASSES, device, dtype).epoch(0))


def measure_step(
    architecture: Architecture,
    *,
    device: torch.device,
    batch_size: int,
    precision: Precision,
    record: bool = False,
) -> Measurement:
    """Our training step; `record`: captured as a CUDA graph."""
    step = make_step(architecture, device, precision)
    choose_convolutions(step, batch_size)
    if record:
        step.capture(batch_size, precision.dtype)
    batch = batch_of(batch_size, device, precision.dtype)
    number = iter(range(10**9))
    rate, spread = time_rate(batch_size, lambda: step(batch, step=next(number), seed=0), device)
    flop = 3 * 2 * multiplications(architecture) * rate
    details: dict[str, str | float | int] = {
        "batch size": batch_size,
        "precision": precision.name,
        "TFLOP/s": flop / 1e12,
        **memory(device),
    }
    return Measurement("model, training step", rate, spread, details)


def make_step(architecture: Architecture, device: torch.device, precision: Precision) -> TrainingStep:
    model = AlexNet(architecture).to(device)
    optimizer = SGD(model)
    optimizer.set_rates(weights=1e-6, biases=1e-6)
    return TrainingStep(model, optimizer, precision=precision)


def memory(device: torch.device) -> dict[str, float]:
    """Peak since the last call, on a GPU."""
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return {"GB": peak}


def multiplications(architecture: Architecture) -> int:
    """Multiply-adds of the convolutions and products for one image, forward."""
    conv1, _, conv2, _, conv34, conv5, _ = architecture.map_sizes
    sides = {"conv1": conv1, "conv2": conv2, "conv3": conv34, "conv4": conv34, "conv5": conv5}
    return sum(
        torch.Size(shape).numel() * sides.get(layer, 1) ** 2 for layer, shape in architecture.weight_shapes.items()
    )


def measure_model(
    *, device: torch.device, batch_sizes: Sequence[int], precision: Precision, baselines: bool
) -> list[Measurement]:
    """Forward and training step over the batch sizes; what the norms cost, and on a GPU bit-equal runs.

    `baselines`: also other implementations of AlexNet.
    """
    if device.type == "cpu":
        keep_freed_memory()
    rows: list[Measurement] = []
    for batch_size in batch_sizes:
        rows.append(measure_forward(NETS["167"], device, batch_size, precision))
        step = measure_step(NETS["167"], device=device, batch_size=batch_size, precision=precision)
        rows.append(replace(step, name="net 167, training step"))
        if device.type == "cuda":
            recorded = measure_step(NETS["167"], device=device, batch_size=batch_size, precision=precision, record=True)
            rows.append(replace(recorded, name="net 167, training step recorded as a CUDA graph"))
    batch_size = batch_sizes[len(batch_sizes) // 2]
    rows += norm_costs(device, batch_size, precision)
    if device.type == "cuda":  # a CPU runs the same kernels either way
        rows += in_own_process(measure_deterministic, device, batch_size, precision)
    if baselines:
        # In a process of their own: our memory settings for this process would make them faster too.
        rows += in_own_process(measure_baselines, device, batch_size, precision)
    reference = next(row for row in rows if row.name == "net 167, training step")
    reference = next(row for row in rows if row.name == reference.name and row.details.get("batch size") == batch_size)
    return [
        row
        if "forward" in row.name
        else replace(row, details={**row.details, "of net 167": f"{row.rate / reference.rate:.2f}×"})
        for row in rows
    ]


def measure_forward(
    architecture: Architecture, device: torch.device, batch_size: int, precision: Precision
) -> Measurement:
    """Testing: no dropout, no gradients."""
    model = AlexNet(architecture).to(device).eval()
    weights = model.working_weights(precision.dtype)
    images = batch_of(batch_size, device, precision.dtype).images
    with torch.inference_mode():
        rate, spread = time_rate(batch_size, lambda: model(images, weights=weights), device)
    tera = 2 * multiplications(architecture) * rate / 1e12
    details: dict[str, str | float | int] = {
        "batch size": batch_size,
        "precision": precision.name,
        "TFLOP/s": tera,
        **memory(device),
    }
    return Measurement("net 167, forward", rate, spread, details)


def norm_costs(device: torch.device, batch_size: int, precision: Precision) -> list[Measurement]:
    """Training steps of net 145 with its three norms, and of both networks without any."""
    networks = {
        "net 145, training step": NETS["145"],
        "without norms, training step": replace(NETS["167"], norms=()),
    }
    return [
        replace(measure_step(network, device=device, batch_size=batch_size, precision=precision), name=name)
        for name, network in networks.items()
    ]


Measure = Callable[[torch.device, int, Precision], list[Measurement]]


def in_own_process(measure: Measure, device: torch.device, batch_size: int, precision: Precision) -> list[Measurement]:
    """What a function of this module measures in a new process, which it may set up as it likes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), take_device, (device,)) as pool:
        return pool.submit(measure, device, batch_size, precision).result()


def take_device(device: torch.device) -> None:
    """Make a GPU the current one: Triton launches its kernels there."""
    if device.type == "cuda":
        start_gpu(device)


def measure_deterministic(device: torch.device, batch_size: int, precision: Precision) -> list[Measurement]:
    """The training step as `train --deterministic` does it, for the rest of this process."""
    be_deterministic()
    row = measure_step(NETS["167"], device=device, batch_size=batch_size, precision=precision)
    return [replace(row, name="net 167, training step, deterministic")]


def measure_baselines(device: torch.device, batch_size: int, precision: Precision) -> list[Measurement]:
    """A plain port of net 167 and torchvision's AlexNet, eager and compiled, in the same precision, channels-last."""
    batch = batch_of(batch_size, device, torch.float32)
    networks: dict[str, Callable[[], torch.nn.Module]] = {
        "plain port of net 167": lambda: PlainAlexNet(NETS["167"]),
        "torchvision's AlexNet (no norms)": lambda: torchvision_alexnet(NUM_CLASSES),
    }
    rows = []
    for compiled in (False, True) if can_compile(device) else (False,):
        for name, make in networks.items():
            step = PlainStep(make(), device, precision.dtype, compiled=compiled)
            rate, spread = time_rate(batch_size, lambda step=step: step(batch.images, batch.labels), device)  # type: ignore[misc]
            details: dict[str, str | float | int] = {"batch size": batch_size, "precision": precision.name}
            name = f"{name}, {'compiled, ' if compiled else ''}training step"
            rows.append(Measurement(name, rate, spread, details | memory(device)))
    return rows


def can_compile(device: torch.device) -> bool:
    """torch.compile needs a C++ compiler for a CPU, and brings its own for a GPU."""
    return device.type == "cuda" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
