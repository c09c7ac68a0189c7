"""Interleaved measurements: loaders are timed in turns, so that other load on the machine affects all of them equally.

Beside the time, the processors' time is counted: other work on the machine changes it far less.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from alexnet_fast.bench.measurement import Measurement, finish

LEAD = 8
"""Batches that a turn begins with, untimed: by then prefetch queues are full and workers are warm."""


@dataclass(frozen=True)
class Took:
    """What some batches took."""

    seconds: float
    cpu_seconds: float
    """Of all threads and worker processes."""


@dataclass(frozen=True)
class Candidate:
    """Something that makes batches."""

    name: str
    turn: Callable[[int, int], Took]
    """(untimed batches, timed batches) -> what the latter took, from a fresh start."""
    details: Mapping[str, str | float | int] = field(default_factory=dict)


def stream_turn(open_stream: Callable[[], Iterator[object]], device: torch.device, lead: int, count: int) -> Took:
    """`Candidate.turn` of an iterator that has enough batches; it is closed afterwards where it can be."""
    batches = open_stream()
    for _ in islice(batches, lead):
        pass
    finish(device)
    start, cpu_start = time.perf_counter(), cpu_seconds()
    num_batches = sum(1 for _ in islice(batches, count))
    finish(device)
    took = Took(time.perf_counter() - start, cpu_seconds() - cpu_start)
    assert num_batches == count, f"the stream ended after {num_batches} of {count} batches"
    close = getattr(batches, "close", None)
    if close is not None:
        close()
    return took


def cpu_seconds() -> float:
    """Of this process and of the processes that it started and that still run; the latter in steps of 10 ms."""
    ticks = 0
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure_interleaved(
    candidates: Sequence[Candidate], *, batch_size: int, count: int, turns: int, device: torch.device
) -> list[Measurement]:
    """A row for each candidate: the median of its turns, `count` batches each."""
    found: list[list[Took]] = [[] for _ in candidates]
    for _ in range(turns):
        for candidate, took in zip(candidates, found, strict=True):
            took.append(candidate.turn(LEAD, count))
    images = count * batch_size
    return [
        row_of(candidate, took, images, {"batch size": batch_size, "device": device.type})
        for candidate, took in zip(candidates, found, strict=True)
    ]


def row_of(
    candidate: Candidate, took: Sequence[Took], images: int, details: Mapping[str, str | float | int]
) -> Measurement:
    """Medians over the turns, each of so many images."""
    rates = [images / turn.seconds for turn in took]
    rate = statistics.median(rates)
    cpu = 1e6 * statistics.median(turn.cpu_seconds for turn in took) / images
    return Measurement(
        candidate.name, rate, (max(rates) - min(rates)) / 2 / rate, {**details, "CPU µs": cpu, **candidate.details}
    )
