"""The loader's best settings for this machine, and what keeps it from being faster still."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from alexnet_fast.bench.interleaved import Candidate, measure_interleaved, stream_turn
from alexnet_fast.bench.loader import SPLIT, Parts, measure_settings
from alexnet_fast.bench.measurement import Measurement, measure_rate
from alexnet_fast.pipelines.settings import LoaderSettings, remember, store_settings
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.messages import counted

TURNS = 3
BATCHES = 10
BUDGET = 180.0
"""Seconds after which the sweep begins no further round."""
LOADS = (0.0, 0.12, 0.25, 0.5, 0.65, 0.8, 1.0)
"""Shares of the JPEG engines; NVIDIA's own tests run with 0.12 beside many CPU threads, DALI's default is 0.65."""
PREFETCH = (2, 1, 4)
READ_AT_MOST = 1 << 30
"""Bytes of the shards that are read to find the disk's rate."""
BLOCK = 1 << 20
COPIED = 64 << 20
"""Bytes of a copy to the GPU."""

Attempt = Callable[[list[LoaderSettings]], list[Measurement]]
"""Measures settings in turns; a row for each."""


# ----------------------------------------------------------------------- sweep


def tune(
    dataset: Dataset, *, device: torch.device, batch_size: int, num_threads: int | None, say: Callable[[str], None]
) -> list[Measurement]:
    """Find the best settings, keep them for this machine, and say what the bottleneck is.

    num_threads: the only number of threads to try; None tries several.
    Returns the settings' rows, the fastest first, then the limits' rows, the lowest first.
    """

    def attempt(candidates: list[LoaderSettings]) -> list[Measurement]:
        named = {setting_name(settings, device): asdict(settings) for settings in candidates}
        return measure_settings(named, dataset, device, batch_size, turns=TURNS, count=BATCHES)

    store_settings({})  # a place that cannot be written is told now and not after the sweep
    best, tried = sweep(attempt, device, num_threads, deadline=time.monotonic() + BUDGET)
    say(f"The best is kept in {remember(device, best)}: {tried[best].name}")
    limits = measure_limits(dataset, device, batch_size, best)
    say(wall(tried[best].rate, limits, fits_memory=bytes_of(dataset) < memory() / 2))
    return [*sorted(tried.values(), key=lambda row: -row.rate), *limits]


def sweep(
    attempt: Attempt, device: torch.device, num_threads: int | None, *, deadline: float
) -> tuple[LoaderSettings, dict[LoaderSettings, Measurement]]:
    """The best settings, and the row of all that were tried.

    A round for each axis: the best so far against its neighbors on that axis; on a GPU a last one between the shares.
    No round is begun after `deadline` (of time.monotonic), except the first.
    """
    on_gpu = device.type == "cuda"
    threads = [num_threads] if num_threads is not None else thread_counts(num_cores(), on_gpu)
    best = LoaderSettings(threads[0], PREFETCH[0], 0.65)
    rounds: list[Callable[[], list[LoaderSettings]]] = [
        lambda: [replace(best, num_threads=number) for number in threads],
        lambda: [replace(best, prefetch=depth) for depth in PREFETCH],
    ]
    if on_gpu:
        rounds.insert(0, lambda: [replace(best, hw_decoder_load=load) for load in LOADS])
        rounds.append(lambda: [replace(best, hw_decoder_load=load) for load in between(best.hw_decoder_load)])
    tried: dict[LoaderSettings, Measurement] = {}
    for neighbors in rounds:
        candidates = list(dict.fromkeys([best, *neighbors()]))
        if len(candidates) == 1 or (tried and time.monotonic() >= deadline):
            continue
        rows = attempt(candidates)
        tried |= zip(candidates, rows, strict=True)
        best = candidates[max(range(len(rows)), key=lambda place: rows[place].rate)]
    return best, tried


def thread_counts(cores: int, on_gpu: bool) -> list[int]:
    """The number of cores first, then fewer and more."""
    others = {max(1, cores // 2), *({max(1, cores // 4), 2 * cores} if on_gpu else {cores + 1})}
    return [cores, *sorted(others - {cores})]


def between(load: float) -> list[float]:
    """Half-way from a share to those beside it in `LOADS`."""
    neighbors = [*[other for other in LOADS if other < load][-1:], *[other for other in LOADS if other > load][:1]]
    return [round((load + other) / 2, 3) for other in neighbors]


def setting_name(settings: LoaderSettings, device: torch.device) -> str:
    """As the table calls it."""
    name = f"{counted(settings.num_threads, 'thread')}, prefetch {settings.prefetch}"
    return f"{name}, engines {settings.hw_decoder_load:g}" if device.type == "cuda" else name


# ---------------------------------------------------------------------- limits


DISK = "limit: disk, file cache dropped"


def measure_limits(
    dataset: Dataset, device: torch.device, batch_size: int, settings: LoaderSettings
) -> list[Measurement]:
    """What each stage alone would reach with these settings, the lowest first."""
    tars = dataset.tars(SPLIT)
    size = bytes_of(dataset) / dataset.split(SPLIT).samples
    rows = [read_limit(DISK, tars, size, cold=True), read_limit("limit: file cache", tars, size, cold=False)]
    parts = Parts(dataset, device, batch_size, settings)
    graphs = {"limit: CPU, reading samples": parts.read, "limit: CPU, reading and parsing headers": parts.parsed}
    if device.type == "cuda":
        rows.append(copy_limit(device, size))
        graphs |= {"limit: decoding, engines and CUDA cores": parts.decoded}
        for name, load in (("limit: decoding, engines alone", 1.0), ("limit: decoding, CUDA cores alone", 0.0)):
            alone = Parts(dataset, device, batch_size, replace(settings, hw_decoder_load=load))
            graphs[name] = alone.decoded
    else:
        graphs["limit: CPU, decoding"] = parts.decoded
    candidates = [Candidate(name, partial(stream_turn, parts.stream(graph), device)) for name, graph in graphs.items()]
    rows += measure_interleaved(candidates, batch_size=batch_size, count=BATCHES, turns=TURNS, device=device)
    return sorted(rows, key=lambda row: row.rate)


def read_limit(name: str, tars: Sequence[Path], image_bytes: float, *, cold: bool) -> Measurement:
    """Images/s of reading the tars from end to end; `cold` asks the system to forget what it holds of them first."""
    start, amount = time.perf_counter(), 0
    forgetting = 0.0
    for tar in tars:
        with tar.open("rb", buffering=0) as file:
            if cold:
                begun = time.perf_counter()
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                forgetting += time.perf_counter() - begun
            while block := file.read(BLOCK):
                amount += len(block)
        if amount >= READ_AT_MOST:
            break
    rate = amount / (time.perf_counter() - start - forgetting)
    return Measurement(name, rate / image_bytes, 0.0, {"GB/s": rate / 1e9})


def copy_limit(device: torch.device, image_bytes: float) -> Measurement:
    """Images/s of copying compressed images to the GPU."""
    host = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device)

    def copy() -> None:
        there.copy_(host, non_blocking=True)
        torch.cuda.synchronize(device)

    copy()
    rate, spread = measure_rate(COPIED, copy, repetitions=9)
    return Measurement("limit: PCIe, compressed images", rate / image_bytes, spread, {"GB/s": rate / 1e9})


def bytes_of(dataset: Dataset) -> int:
    """Of the split's tars."""
    return sum(tar.stat().st_size for tar in dataset.tars(SPLIT))


def memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def wall(rate: float, limits: Sequence[Measurement], *, fits_memory: bool) -> str:
    """Which limit is nearest to the loader's rate, in words.

    The disk counts where the shards do not fit into memory; one kind of decoder alone never does.
    """
    counting = [row for row in limits if not row.name.endswith(" alone") and not (fits_memory and row.name == DISK)]
    nearest = min(counting, key=lambda row: row.rate)
    text = (
        f"The wall is {nearest.name.removeprefix('limit: ')}: alone it reaches {nearest.rate:,.0f} img/s, "
        f"and the whole loader {rate / nearest.rate:.0%} of that."
    )
    disk = next((row for row in limits if row.name == DISK), None)
    if fits_memory and disk is not None and disk.rate < nearest.rate:
        text += f" The first pass, before the shards are in memory, waits for the disk: {disk.rate:,.0f} img/s."
    return text
