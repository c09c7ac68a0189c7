"""Images that are kept decoded, and the time that a training step waits for its images."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from alexnet_fast.check.runner import CheckFailedError
from alexnet_fast.distributed.clock import clock_of
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoded_cache import CacheRequest
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.train_step import TrainingStep

LEAD = 20
"""Steps that are not measured."""


# ------------------------------------------------------------------------------------ cache


def second_epoch_from_cache(dataset: Dataset, device: torch.device, folder: Path) -> str:
    """How many images of a second epoch are not decoded again.

    On a GPU between the epochs every JPEG of the shards (a copy) is destroyed: what comes in the second was kept.  On a
    CPU nothing is kept, and nothing destroyed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    copy = Dataset.load(shutil.copytree(dataset.folder, folder))
    kept = device.type == "cuda"
    samples = copy.split("train").samples
    with TrainingLoader(dataset, batch_size=1, device=device, seed=3) as whole:
        wanted = [batch.images.float().cpu() for batch in whole.epoch(1)]
    with TrainingLoader(
        copy, batch_size=1, device=device, seed=3, cache=CacheRequest("auto") if kept else None
    ) as loader:
        seconds = [-time.monotonic()]
        for _ in loader.epoch(0):
            pass
        seconds = [seconds[0] + time.monotonic(), -time.monotonic()]
        if kept:
            destroy_images(copy.tars("train"))
        found, told = images_until_error(loader.epoch(1))
        seconds[1] += time.monotonic()
    difference = max((float((one - other).abs().mean()) for one, other in zip(found, wanted, strict=False)), default=0)
    figures = f"{len(found)} of {samples} images came from the cache" if kept else f"{samples} images, none kept"
    figures += f", at most {difference:.2f} from those decoded anew on average; epochs took "
    figures += " and ".join(f"{each:.2f} s" for each in seconds)
    if len(found) < samples or difference > 2:
        raise CheckFailedError(f"{figures} {told}")
    return figures


def images_until_error(batches: Iterator[Batch]) -> tuple[list[torch.Tensor], str]:
    """On the CPU, in float32; and what ended them, empty where nothing did."""
    found = []
    try:
        for batch in batches:
            found.append(batch.images.float().cpu())  # noqa: PERF401 (those before an error count)
    except UserError as error:
        return found, str(error)
    return found, ""


def destroy_images(tars: list[Path]) -> None:
    """Zeros in the place of every JPEG, in the very file: a mapped one must not be cut."""
    for tar in tars:
        with tarfile.open(tar) as opened:
            images = [(member.offset_data, member.size) for member in opened if member.name.endswith(".jpg")]
        with tar.open("r+b") as file:
            for offset, size in images:
                file.seek(offset)
                file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())


# ---------------------------------------------------------------------------------- waiting


def endless(loader: TrainingLoader) -> Iterator[Batch]:
    """Epoch after epoch."""
    for epoch in range(10**9):
        yield from loader.epoch(epoch)


def training_rate(step: TrainingStep, loader: TrainingLoader, num_steps: int) -> str:
    """img/s from shards to weights, and the share of the device's time in which a step waits for its images."""
    choose_convolutions(step, loader.batch_size)
    if step.device.type == "cuda" and (problem := step.capture(loader.batch_size, loader.dtype)) is not None:
        raise CheckFailedError(problem)
    clock = clock_of(step.device)
    batches = endless(loader)
    for number in range(LEAD + num_steps):
        if number >= LEAD:
            clock.mark()
        batch = next(batches)
        if number >= LEAD:
            clock.mark()
        step(batch, step=number, seed=0)
    clock.mark()
    step.drain()
    seconds = clock.between()
    waiting, whole = sum(seconds[::2]), sum(seconds)
    rate = num_steps * loader.batch_size / whole
    return (
        f"{rate:,.0f} img/s from shards to weights at batch {loader.batch_size}, {waiting / whole:.0%} waiting for data"
    )
