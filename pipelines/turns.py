"""Measuring several loaders in turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from alexnet_fast.tools.measurement import Measurement

LEAD = 8
"""Batches that a turn begins with, untimed: by then prefetch queues and workers are in their stride."""


@dataclass(frozen=True)
class Candidate:
    """Something that makes batches."""

    name: str
    seconds: Callable[[int, int], float]
    """(untimed batches, timed batches) -> seconds that the latter took, from a fresh start."""
    details: Mapping[str, str | float | int] = field(default_factory=dict)


def stream_seconds(open_stream: Callable[[], Iterator[object]], device: torch.device, lead: int, count: int) -> float:
    """`Candidate.seconds` of an iterator that has enough batches; it is closed afterwards where it can be."""
    batches = open_stream()
    for _ in islice(batches, lead):
        pass
    finish(device)
    start = time.perf_counter()
    num_batches = sum(1 for _ in islice(batches, count))
    finish(device)
    seconds = time.perf_counter() - start
    assert num_batches == count, f"the stream ended after {num_batches} of {count} batches"
    close = getattr(batches, "close", None)
    if close is not None:
        close()
    return seconds


def finish(device: torch.device) -> None:
    """Wait for what is still on its way."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_in_turns(
    candidates: Sequence[Candidate], *, batch_size: int, count: int, turns: int, device: torch.device
) -> list[Measurement]:
    """A row for each candidate: the median of its turns, `count` batches each."""
    rates: list[list[float]] = [[] for _ in candidates]
    for _ in range(turns):
        for candidate, found in zip(candidates, rates, strict=True):
            found.append(count * batch_size / candidate.seconds(LEAD, count))
    return [
        Measurement(
            candidate.name,
            statistics.median(found),
            (max(found) - min(found)) / 2 / statistics.median(found),
            {"batch size": batch_size, "device": device.type, **candidate.details},
        )
        for candidate, found in zip(candidates, rates, strict=True)
    ]
