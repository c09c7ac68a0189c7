"""What decides throughput on a GPU, one axis at a time: convolutions, networks, loader settings, decoder options.

None of it has run on a GPU yet.  Each line has a budget of seconds; what it leaves untried is named.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from alexnet_fast.bench.model import make_step
from alexnet_fast.check.gpu import gpu
from alexnet_fast.check.gpu_speed import loader_rate, rate_of, step_rate
from alexnet_fast.check.program import tiny_shards
from alexnet_fast.check.runner import Check, CheckFailedError, Place
from alexnet_fast.config.precision import choose_precision
from alexnet_fast.network.architecture import Architecture
from alexnet_fast.network.model import NETS, evaluating
from alexnet_fast.pipelines.dali import fn
from alexnet_fast.pipelines.decoding import Decoding, decoder_options
from alexnet_fast.pipelines.loader import EvaluationLoader
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun
from alexnet_fast.pipelines.reader import Reading, read_samples
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.convolution_choice import GroupedLayer, calls_of, fastest, grouped_layers, time_strategies
from alexnet_fast.training.job import EVALUATION_BATCH
from alexnet_fast.training.train_step import fastest_convolutions

BATCH = 128
SWEEP_BUDGET = 60.0
"""Seconds of a line that tries many settings."""
EACH = 2.0
"""Seconds of one setting."""
DECODE_BATCHES = (128, 256, 512, 1024, 2048)
PREFETCH = (2, 3, 4)
EVALUATED = 4
"""Batches; more take no more memory."""
SLOW_KERNELS = ("genericTranspose", "grouped_direct", "nchwToNhwc", "nhwcToNchw")
"""In the names of kernels that copy maps into another layout, or that use no matrix units."""
DECODERS: dict[str, dict[str, Any]] = {
    "as in training": {},
    "threads not tied to cores": {"affine": False},
    "plain upsampling": {"jpeg_fancy_upsampling": False},
}


def rates_within(
    settings: Iterable[tuple[str, Callable[[], float]]], budget: float
) -> tuple[dict[str, float], list[str]]:
    """(name -> img/s, names of those that were not begun before the budget was spent)."""
    end = time.monotonic() + budget
    rates: dict[str, float] = {}
    left: list[str] = []
    for name, measure in settings:
        if rates and time.monotonic() >= end:
            left.append(name)
        else:
            rates[name] = measure()
    return rates, left


def shown(rates: dict[str, float], left: list[str]) -> str:
    text = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return text + (f"; no time for {', '.join(left)}" if left else "")


def shards_of(place: Place) -> Dataset:
    """The user's, else the tiny ones."""
    return Dataset.load(place.data) if place.data is not None else tiny_shards(place)


# -------------------------------------------------------------------------- convolutions


def kernel_names(work: Callable[[], object], device: torch.device) -> list[str]:
    """Of what the device ran for one call, those that took longest first."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    work()
    with profile(activities=[activity]) as seen:
        work()
    on_gpu = device.type == "cuda"
    events = seen.key_averages()
    ordered = sorted(events, key=lambda event: -(event.device_time_total if on_gpu else event.cpu_time_total))
    return [str(event.key) for event in ordered]


def compare_strategies(
    layers: dict[str, GroupedLayer], num_images: int, device: torch.device, dtype: torch.dtype
) -> str:
    """Each layer's times as `train` takes them, what it would choose, and kernels of the grouped form to beware of."""
    found = []
    for layer, shape in layers.items():
        times = time_strategies(shape, num_images, device, dtype)
        if not times:
            raise CheckFailedError(f"{layer} could be computed in none of its forms")
        calls = calls_of(shape, num_images, device, dtype)
        with fastest_convolutions(device):
            names = {strategy: kernel_names(calls[strategy], device) for strategy in times}
        slow = sorted({word for word in SLOW_KERNELS for name in names.get("grouped", []) if word in name})
        text = ", ".join(
            f"{way} {ms:.2f} ms ({(names[way] or ['kernels unknown'])[0][:48]})" for way, ms in times.items()
        )
        found.append(f"{layer} {fastest(times)}: {text}" + (f", slow: {', '.join(slow)}" if slow else ""))
    return "; ".join(found)


def measure_convolutions(place: Place) -> str:
    device = gpu()
    layers = grouped_layers(NETS["167"])
    return f"forward and back at batch {BATCH}: " + compare_strategies(
        layers, BATCH, device, choose_precision(device).dtype
    )


# ------------------------------------------------------------------------------ networks


def captured_rate(architecture: Architecture, device: torch.device, batch_size: int, deterministic: bool) -> float:
    """img/s of a step; deterministic: with reproducible kernels, for this measurement alone."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        return step_rate(make_step(architecture, device, choose_precision(device)), batch_size)
    finally:
        torch.use_deterministic_algorithms(before)


def compare_networks(device: torch.device, batch_size: int, nets: dict[str, Architecture], budget: float) -> str:
    settings = [
        (name, lambda net=net, name=name: captured_rate(net, device, batch_size, "deterministic" in name))
        for name, net in nets.items()
    ]
    return f"img/s at batch {batch_size}: {shown(*rates_within(settings, budget))}"


def measure_networks(place: Place) -> str:
    nets = {
        "net 167": NETS["167"],
        "net 145": NETS["145"],
        "without norms": replace(NETS["167"], norms=()),
        "net 167, deterministic": NETS["167"],
    }
    return compare_networks(gpu(), BATCH, nets, SWEEP_BUDGET)


# -------------------------------------------------------------------------------- loader


def sweep_loader(dataset: Dataset, device: torch.device, batch_size: int, budget: float) -> str:
    """Each axis on its own, around the defaults; a place's best is the combination that `bench --tune` looks for."""
    cores = num_cores()
    axes = {
        **{f"{n} threads": LoaderOptions(num_threads=n) for n in dict.fromkeys((max(1, cores // 2), cores, 2 * cores))},
        **{f"prefetch {depth}": LoaderOptions(prefetch=depth) for depth in PREFETCH},
        **{f"{size} decoded together": LoaderOptions(decode_batch=size) for size in DECODE_BATCHES},
    }
    settings = [
        (name, lambda options=options: loader_rate(dataset, batch_size, device, options, EACH))
        for name, options in axes.items()
    ]
    return f"img/s at batch {batch_size}: {shown(*rates_within(settings, budget))}"


def measure_loader_settings(place: Place) -> str:
    dataset = shards_of(place)
    return sweep_loader(dataset, gpu(), min(BATCH, dataset.split("train").samples), SWEEP_BUDGET)


@contextlib.contextmanager
def standard_error() -> Iterator[list[str]]:
    """The lines that libraries write to standard error in the block, once it has ended."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def decode_rate(dataset: Dataset, device: torch.device, batch_size: int, options: dict[str, Any]) -> float:
    """img/s of decoding whole images alone."""
    tars, indexes = dataset.tars("train"), dataset.indexes("train")
    reading = Reading.of(tars, indexes, rank=0, num_ranks=1, shuffle_buffer=None, seed=0)
    given = decoder_options(Decoding.on(device, dataset.image_options.size, "engines", 0.65)) | options
    run = PipelineRun(
        lambda: (fn.decoders.image(read_samples(reading)[0], **given),),
        Execution(batch_size, device, num_cores(), 2),
        10**6,
    )
    try:
        return rate_of(run.next, batch_size, device, EACH)
    finally:
        run.close()


def compare_decoders(dataset: Dataset, device: torch.device, batch_size: int) -> str:
    """Decoder options against those of training, and how often each complains about its threads' cores."""
    found = []
    for name, options in DECODERS.items():
        with standard_error() as lines:
            rate = decode_rate(dataset, device, batch_size, options)
        warnings = sum("affinity" in line.lower() for line in lines)
        found.append(f"{name} {rate:,.0f}" + (f" ({warnings} warnings of affinity)" if warnings else ""))
    return f"img/s decoded, {batch_size} together: {', '.join(found)}"


def measure_decoders(place: Place) -> str:
    dataset = shards_of(place)
    return compare_decoders(dataset, gpu(), min(1024, dataset.split("train").samples))


# ---------------------------------------------------------------------------- evaluation


def evaluate_beside_training(
    dataset: Dataset, device: torch.device, batch_size: int, architecture: Architecture, free: Callable[[], int]
) -> str:
    """The least free memory while ten views are evaluated beside a captured step; out of memory raises."""
    precision = choose_precision(device)
    step = make_step(architecture, device, precision)
    if device.type == "cuda" and (problem := step.capture(batch_size, precision.dtype)) is not None:
        raise CheckFailedError(problem)
    least = before = free()
    weights = step.model.working_weights(precision.dtype)
    with evaluating(step.model), torch.inference_mode():
        for batch in islice(EvaluationLoader(dataset, batch_size=EVALUATION_BATCH, device=device), EVALUATED):
            for view in batch.views(10):
                step.model(view().to(precision.dtype), weights=weights)
                least = min(least, free())
    return (
        f"{least / 2**30:.1f} GiB are free at the least while ten views are evaluated beside a step of batch "
        f"{batch_size}, {(before - least) / 2**30:.1f} less than before"
    )


def measure_evaluation(place: Place) -> str:
    device = gpu()
    return evaluate_beside_training(
        shards_of(place), device, BATCH, NETS["145"], lambda: torch.cuda.mem_get_info(device)[0]
    )


SWEEPS = (
    Check("speed: convolutions", measure_convolutions, "report it with this table", 120.0, True),
    Check("speed: networks", measure_networks, "report it with this table", 120.0, True),
    Check(
        "speed: loader settings", measure_loader_settings, "`bench loader --tune` finds the best together", 120.0, True
    ),
    Check("speed: decoder options", measure_decoders, "report it with this table", 60.0, True),
    Check("evaluation memory", measure_evaluation, "train with a smaller batch, or without --cache-decoded", 90.0),
)
