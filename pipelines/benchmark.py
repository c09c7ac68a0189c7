"""Pictures per second of our loader, and of what people use instead, on the same JPEGs.

Every rate is of a whole pass over the split after a warm-up batch; the file cache is warm.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from alexnet_fast.pipelines.dali import fn
from alexnet_fast.pipelines.decoding import Decoding, decode
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.reader import Reading, read_samples
from alexnet_fast.pipelines.run import Execution, PipelineRun
from alexnet_fast.pipelines.settings import LoaderSettings, num_cores, remember
from alexnet_fast.pipelines.training import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.measurement import Measurement, measure_rate
from alexnet_fast.tools.shard_file import read_samples as samples_of_tar

SPLIT = "train"
REPETITIONS = 3
MOST_BATCHES = 60
"""Of one repetition: enough for a rate, short enough to wait for."""


def measure_loader(dataset: Dataset, *, device: torch.device, batch_size: int, num_threads: int | None) -> Measurement:
    """Our whole graph, from the shards to torch tensors: crop, mirror, colour noise, mean."""
    return rate_of_loader("loader, shards to torch", dataset, device, batch_size, num_threads=num_threads)


def rate_of_loader(name: str, dataset: Dataset, device: torch.device, batch_size: int, **settings: Any) -> Measurement:
    """One setting of our loader."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with TrainingLoader(dataset, batch_size=batch_size, device=device, seed=0, dtype=dtype, **settings) as loader:
        batches = endless(loader)
        next(batches)
        count = min(loader.num_batches, MOST_BATCHES)

        def work() -> None:
            for _ in range(count):
                next(batches)
            finish(device)

        rate, spread = measure_rate(count * batch_size, work, repetitions=REPETITIONS)
    return Measurement(name, rate, spread, {"batch size": batch_size, "device": device.type})


def endless(loader: TrainingLoader) -> Iterator[object]:
    """Epoch after epoch."""
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


def finish(device: torch.device) -> None:
    """Wait for what is still on its way."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ----------------------------------------------------------------------- peers


def measure_peers(
    dataset: Dataset, *, device: torch.device, batch_size: int, num_threads: int | None
) -> list[Measurement]:
    """The limit, the parts of our graph, and other people's loaders; crop and mirror in all that can."""
    threads = num_threads if num_threads is not None else num_cores()
    count = min(dataset.split(SPLIT).samples // batch_size, MOST_BATCHES)
    jpegs = list(islice(all_jpegs(dataset), count * batch_size))
    limit = measure_decoder_alone(jpegs, threads)
    parts = [
        measure_dali("DALI: decode only", dataset, device, batch_size, threads, crop=False),
        measure_dali("DALI: decode, crop, mirror, uint8", dataset, device, batch_size, threads, crop=True),
    ]
    full = measure_loader(dataset, device=device, batch_size=batch_size, num_threads=num_threads)
    # The peers subtract a mean colour; so does this, and it is what they are compared with.
    ours = rate_of_loader("loader, mean colour", dataset, device, batch_size, num_threads=num_threads, mean="rgb")
    others = [
        measure_torch_loader(jpegs, batch_size, threads),
        measure_webdataset(dataset, batch_size, threads, count),
    ]
    rows = [limit, *parts, full, ours, *others]
    return [
        Measurement(row.name, row.rate, row.spread, {**row.details, "mean colour is": f"{ours.rate / row.rate:.2f}×"})
        for row in rows
    ]


def all_jpegs(dataset: Dataset) -> Iterator[tuple[bytes, int]]:
    """(JPEG, label) of the split's samples in order."""
    for tar in dataset.tars(SPLIT):
        with tar.open("rb") as file:
            for sample in samples_of_tar(file):
                yield sample.jpeg, sample.label


def measure_decoder_alone(jpegs: list[tuple[bytes, int]], threads: int) -> Measurement:
    """libjpeg-turbo through Pillow's decoder in threads, pixels thrown away: the CPU's limit."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    def decode_one(entry: tuple[bytes, int]) -> None:
        Image.open(io.BytesIO(entry[0])).load()

    with ThreadPoolExecutor(threads) as pool:

        def work() -> None:
            for _ in pool.map(decode_one, jpegs, chunksize=64):
                pass

        work()
        rate, spread = measure_rate(len(jpegs), work, repetitions=REPETITIONS)
    return Measurement("libjpeg-turbo alone, threads", rate, spread, {"device": "cpu"})


def measure_dali(
    name: str, dataset: Dataset, device: torch.device, batch_size: int, threads: int, *, crop: bool
) -> Measurement:
    """A part of our graph, left in DALI's memory."""
    count = min(dataset.split(SPLIT).samples // batch_size, MOST_BATCHES)
    reading = Reading.of(dataset.tars(SPLIT), dataset.indexes(SPLIT), rank=0, num_ranks=1, shuffle_buffer=1024, seed=0)
    decoding = Decoding("cpu" if device.type == "cpu" else "mixed", dataset.picture.size)

    def graph() -> tuple[Any, ...]:
        jpeg, label = read_samples(reading)
        pixels = decode(jpeg, decoding)
        if crop:
            pixels = fn.crop(
                pixels,
                crop=(CROP, CROP),
                crop_pos_x=fn.random.uniform(range=[0, 1]),
                crop_pos_y=fn.random.uniform(range=[0, 1]),
            )
            pixels = fn.flip(pixels, horizontal=fn.random.coin_flip())
        return pixels, label

    run = PipelineRun(graph, Execution(batch_size, device, threads, 2), 1 + count * REPETITIONS)
    run.next()

    def work() -> None:
        for _ in range(count):
            run.next()
        finish(device)

    rate, spread = measure_rate(count * batch_size, work, repetitions=REPETITIONS)
    return Measurement(name, rate, spread, {"batch size": batch_size, "device": device.type})


class PillowPictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """What most people write: Pillow, a random crop, a mirror, numpy, colour noise, mean; JPEGs already in memory."""

    def __init__(self, jpegs: list[tuple[bytes, int]]) -> None:
        self.jpegs = jpegs

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        content, label = self.jpegs[place]
        return augmented(content), label


def augmented(content: bytes) -> torch.Tensor:
    """(224, 224, 3) float32, made as our graph makes it, with Pillow and numpy."""
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    margin = picture.shape[0] - CROP
    y, x = np.random.randint(margin + 1), np.random.randint(margin + 1)  # noqa: NPY002 (what people write)
    view = picture[y : y + CROP, x : x + CROP]
    if np.random.rand() < 0.5:  # noqa: NPY002
        view = view[:, ::-1]
    shift = np.random.randn(3).astype(np.float32)  # noqa: NPY002
    return torch.from_numpy((view.astype(np.float32) - (118 - shift)) / np.float32(1.1))


def measure_torch_loader(jpegs: list[tuple[bytes, int]], batch_size: int, workers: int) -> Measurement:
    """torch.utils.data.DataLoader with Pillow, one worker for each core."""
    loader = torch.utils.data.DataLoader(
        PillowPictures(jpegs), batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )

    def work() -> None:
        for _ in loader:
            pass

    work()
    rate, spread = measure_rate(len(jpegs) // batch_size * batch_size, work, repetitions=REPETITIONS)
    return Measurement("torch DataLoader + Pillow", rate, spread, {"batch size": batch_size, "device": "cpu"})


def measure_webdataset(dataset: Dataset, batch_size: int, workers: int, count: int) -> Measurement:
    """webdataset with Pillow, reading the same shards, one worker for each core."""
    import webdataset

    tars = [str(tar) for tar in dataset.tars(SPLIT)]
    workers = min(workers, len(tars))
    source = webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False)
    stream = source.shuffle(1000).to_tuple("jpg", "cls").map_tuple(augmented, int).batched(batch_size, partial=False)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers, persistent_workers=True)
    counted = 0

    def work() -> None:
        nonlocal counted
        counted = sum(len(labels) for _, labels in islice(loader, count))

    work()
    rate, spread = measure_rate(counted, work, repetitions=REPETITIONS)
    return Measurement("webdataset + Pillow", rate, spread, {"batch size": batch_size, "device": "cpu"})


# ---------------------------------------------------------------------- tuning


def tune(dataset: Dataset, *, device: torch.device, batch_size: int, say: Callable[[str], None]) -> list[Measurement]:
    """Try threads × prefetch (× share of the JPEG engines on a GPU); the best is kept for this machine.

    Returns the rows, the fastest first.
    """
    cores = num_cores()
    loads = (0.0, 0.5, 0.65, 0.8, 1.0) if device.type == "cuda" else (0.65,)
    tried: list[tuple[LoaderSettings, Measurement]] = []
    for threads in sorted({1, max(1, cores // 2), cores, *({2 * cores} if device.type == "cuda" else ())}):
        for prefetch in (1, 2, 4):
            for load in loads:
                settings = LoaderSettings(threads, prefetch, load)
                name = f"{threads} threads, prefetch {prefetch}" + (f", engines {load:g}" if len(loads) > 1 else "")
                row = rate_of_loader(
                    name, dataset, device, batch_size,
                    num_threads=threads, prefetch=prefetch, hw_decoder_load=load,
                )  # fmt: skip
                tried.append((settings, row))
    tried.sort(key=lambda entry: -entry[1].rate)
    kept = remember(device, tried[0][0])
    say(f"The best is kept in {kept}: {tried[0][1].name}")
    return [row for _, row in tried]
