"""Times of a device's work: events on a GPU's stream, the host's clock on a CPU."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Protocol

import torch

LEAD_CYCLES = 40_000_000
"""For which a GPU is kept busy: some 20 ms, in which the host can queue several training steps."""


class Clock(Protocol):
    """Marks between pieces of a device's work."""

    def lead(self) -> None:
        """Let the host get ahead of the device, so that what follows is timed without the host's launches."""

    def mark(self) -> None:
        """Now, in the order of the work that was given to the device."""

    def between(self) -> list[float]:
        """Seconds from each mark to the next; waits until the last one is reached."""


class HostClock:
    """Of a CPU, which has done its work when it returns."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def lead(self) -> None:
        """Nothing: a CPU computes when it is called."""

    def mark(self) -> None:
        self.marks.append(time.perf_counter())

    def between(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.marks)]


class EventClock:
    """Of a GPU: events on torch's current stream, so that nobody waits while it is measured.

    Other streams, such as those on which DALI decodes ahead, are not waited for.
    """

    def __init__(self) -> None:
        self.events: list[torch.cuda.Event] = []

    def lead(self) -> None:
        torch.cuda._sleep(LEAD_CYCLES)  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self.events.append(event)

    def between(self) -> list[float]:
        if self.events:
            self.events[-1].synchronize()
        return [earlier.elapsed_time(later) / 1000 for earlier, later in pairwise(self.events)]


def clock_of(device: torch.device) -> Clock:
    """A clock for one measurement."""
    return EventClock() if device.type == "cuda" else HostClock()
