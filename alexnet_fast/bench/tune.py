"""`--tune`: the loader's best settings for this machine, and its bottleneck."""

from __future__ import annotations

import importlib
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch

from alexnet_fast.bench.busy import check_quiet
from alexnet_fast.bench.interleaved import Candidate, measure_interleaved, stream_turn
from alexnet_fast.bench.loader import SPLIT, Parts, measure_settings
from alexnet_fast.bench.measurement import Measurement, finish, measure_rate
from alexnet_fast.pipelines.settings import LoaderOptions, LoaderSettings, default_settings, remember, store_settings
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.messages import counted

TURNS = 3
BATCHES = 10
BUDGET = 180.0
"""Seconds after which the sweep begins no further round."""
LOADS = (0.0, 0.12, 0.25, 0.5, 0.65, 0.8, 1.0)
"""Shares of the JPEG engines; NVIDIA's own tests run with 0.12 beside many CPU threads, DALI's default is 0.65."""
DECODE_BATCHES = (512, 1024, 2048)
FEW_SAMPLES = 50_000
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

    batch_size: the training batch; decoded batches have a size of their own, which is tuned too.
    num_threads: the only number of threads to try; None tries several.
    Reads the first FEW_SAMPLES of the shards alone: with more, a sweep would spend its time on their indexes.
    Returns the settings' rows, the fastest first, then the limits' rows, the lowest first.
    """

    def attempt(candidates: list[LoaderSettings]) -> list[Measurement]:
        named = {setting_name(settings, device): LoaderOptions(**asdict(settings)) for settings in candidates}
        return measure_settings(named, some, device, batch_size, turns=TURNS, count=BATCHES)

    check_quiet()
    store_settings({})  # raises now, and not after the sweep, where it cannot be written
    some = first_shards(dataset, FEW_SAMPLES)
    engines = has_jpeg_engines(device)
    best, tried, skipped = sweep(
        attempt, device, num_threads, engines=engines is not False, deadline=time.monotonic() + BUDGET
    )
    if device.type == "cuda" and engines is False:
        say("This GPU has no JPEG engines: they were not tried.")
    if skipped:
        say(f"Not tried, the sweep's {BUDGET:.0f} s were over: {', '.join(skipped)}.")
    file = remember(device, best)
    say(f"The fastest: {tried[best].name}. Every later run on this machine uses it; it is stored in\n  {file}")
    say(f"To return to the defaults:\n  rm {shlex.quote(str(file))}")
    limits = measure_limits(dataset, device, batch_size, best)
    say(bottleneck(tried[best].rate, limits, fits_memory=bytes_of(dataset) < memory() / 2))
    return [*sorted(tried.values(), key=lambda row: -row.rate), *limits]


def sweep(
    attempt: Attempt, device: torch.device, num_threads: int | None, *, engines: bool = True, deadline: float
) -> tuple[LoaderSettings, dict[LoaderSettings, Measurement], list[str]]:
    """The best settings, the row of all that were tried, and the rounds that were skipped.

    A round for each axis: the best so far against its neighbors on that axis; on a GPU also where images are decoded,
    with several shares of the JPEG engines if it has `engines`, and a last round between the shares.
    No round is begun after `deadline` (of time.monotonic), except the first.
    """
    on_gpu = device.type == "cuda"
    threads = [num_threads] if num_threads is not None else thread_counts(num_cores(), on_gpu)
    first = replace(default_settings(device), num_threads=threads[0], prefetch=PREFETCH[0])
    best = first if engines else replace(first, decode_on="cuda")
    rounds: dict[str, Callable[[], list[LoaderSettings]]] = {
        "threads": lambda: [replace(best, num_threads=number) for number in threads],
        "prefetch": lambda: [replace(best, prefetch=depth) for depth in PREFETCH],
    }
    if on_gpu:
        shares = [replace(first, hw_decoder_load=load) for load in LOADS] if engines else []
        places = [*shares, replace(first, decode_on="cuda"), replace(first, decode_on="cpu")]
        rounds = {
            "where to decode": lambda: places,
            "threads": rounds["threads"],
            "images decoded together": lambda: [replace(best, decode_batch=size) for size in DECODE_BATCHES],
            "prefetch": rounds["prefetch"],
            "shares between those": lambda: (
                [replace(best, hw_decoder_load=load) for load in between(best.hw_decoder_load)]
                if best.decode_on == "engines"
                else []
            ),
        }
    tried: dict[LoaderSettings, Measurement] = {}
    skipped: list[str] = []
    for name, neighbors in rounds.items():
        candidates = list(dict.fromkeys([best, *neighbors()]))
        if len(candidates) == 1:
            continue
        if tried and time.monotonic() >= deadline:
            skipped.append(name)
            continue
        rows = attempt(candidates)
        tried |= zip(candidates, rows, strict=True)
        best = candidates[max(range(len(rows)), key=lambda place: rows[place].rate)]
    return best, tried, skipped


def has_jpeg_engines(device: torch.device) -> bool | None:
    """Whether NVIDIA's management library finds JPEG engines on the GPU; None where it is unknown."""
    if device.type != "cuda":
        return False
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
        library.nvmlDeviceGetJpgUtilization(library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except Exception as error:  # no package, no driver library, an old driver: each has its own kind of error
        return False if type(error).__name__ == "NVMLError_NotSupported" else None
    return True


def first_shards(dataset: Dataset, num_samples: int) -> Dataset:
    """The data set with so many of its first training shards that they have `num_samples` samples, or all."""
    split = dataset.split(SPLIT)
    totals = accumulate(shard.samples for shard in split.shards)
    count = next((count for count, total in enumerate(totals, 1) if total >= num_samples), len(split.shards))
    shards = split.shards[:count]
    samples = sum(shard.samples for shard in shards)
    return replace(dataset, splits={**dataset.splits, SPLIT: replace(split, shards=shards, samples=samples)})


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
    if device.type != "cuda":
        return name
    where = f"engines {settings.hw_decoder_load:g}" if settings.decode_on == "engines" else settings.decode_on
    return f"{name}, {where}, {settings.decode_batch:,} at once"


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
            own = replace(settings, decode_on="engines", hw_decoder_load=load)
            alone = Parts(dataset, device, batch_size, own)
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
        finish(device)

    copy()
    rate, spread = measure_rate(COPIED, copy, repetitions=9)
    return Measurement("limit: PCIe, compressed images", rate / image_bytes, spread, {"GB/s": rate / 1e9})


def bytes_of(dataset: Dataset) -> int:
    """Of the split's tars."""
    return sum(tar.stat().st_size for tar in dataset.tars(SPLIT))


def memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bottleneck(rate: float, limits: Sequence[Measurement], *, fits_memory: bool) -> str:
    """The bottleneck: the limit that is nearest to the loader's rate.

    The disk counts where the shards do not fit into memory; one kind of decoder alone never does.
    """
    counting = [row for row in limits if not row.name.endswith(" alone") and not (fits_memory and row.name == DISK)]
    nearest = min(counting, key=lambda row: row.rate)
    text = (
        f"The bottleneck is {nearest.name.removeprefix('limit: ')}: alone it reaches {nearest.rate:,.0f} img/s, "
        f"and the whole loader {rate / nearest.rate:.0%} of that."
    )
    disk = next((row for row in limits if row.name == DISK), None)
    if fits_memory and disk is not None and disk.rate < nearest.rate:
        text += f" The first pass, before the shards are in memory, waits for the disk: {disk.rate:,.0f} img/s."
    return text
