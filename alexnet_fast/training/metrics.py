"""Loss, error, speed and waiting for data; the device is synchronized only when they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.runs.totals import Totals, utc_now
from alexnet_fast.training.energy import EnergyCounter
from alexnet_fast.training.train_step import StepResult

MOST_SECONDS = 5.0
"""Between two readings, each of which waits for the device."""
FIRST_SECONDS = 0.25
"""Before the first; each then comes after twice as long, so that a run of seconds has a curve too."""


@dataclass(frozen=True)
class Reading:
    """What the steps since the reading before were like, over all replicas."""

    loss: float
    error: float
    """Share of wrong first guesses, 0..1, with dropout."""
    images_per_s: float
    data_wait: float
    """Share of the time in which no batch was there, 0..1; of this process."""


class Meter:
    """Counts while it runs; `start` it when steps begin, so that evaluations between them do not count."""

    def __init__(self, mesh: Mesh, device: torch.device, before: Totals | None = None) -> None:
        """`before`: of the run's sessions until now."""
        self.mesh = mesh
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.errors = torch.zeros((), dtype=torch.int64, device=device)
        self.images, self.waited, self.since = 0, 0.0, time.monotonic()
        self.pause = FIRST_SECONDS
        self.totals = before if before is not None else Totals(utc_now())
        self.begun, self.energy = time.monotonic(), EnergyCounter(device)

    def start(self) -> None:
        """Forget the time since the last reading, in which no step was done."""
        assert self.images == 0, "read the metrics first: images without their time would give a wrong throughput"
        self.waited, self.since = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the last reading, or `start`."""
        return time.monotonic() - self.since

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next reading."""
        return self.seconds >= self.pause

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time in this block is waiting for data."""
        begun = time.monotonic()
        yield
        self.waited += time.monotonic() - begun

    def add(self, result: StepResult) -> None:
        """One step's result."""
        self.loss += result.loss * result.num_images
        self.errors += result.errors
        self.images += result.num_images

    def read(self) -> Reading:
        """Since the reading before; waits for the device.  All replicas read together."""
        images = self.images * self.mesh.num_replicas
        loss = float(self.mesh.sum_over_replicas(self.loss)) / images
        error = int(self.mesh.sum_over_replicas(self.errors)) / images
        seconds = self.seconds
        reading = Reading(loss, error, images / seconds, self.waited / seconds)
        self.totals = self.totals.with_training(images, seconds, self.waited)
        self.loss.zero_()
        self.errors.zero_()
        self.images = 0
        self.pause = min(MOST_SECONDS, 2 * self.pause)
        self.start()
        return reading

    def run_totals(self) -> Totals:
        """What the run has cost until now, all its sessions.  All ranks call it together."""
        return self.totals.with_session(time.monotonic() - self.begun, all_gather_object(self.mesh, self.energy.kwh()))
