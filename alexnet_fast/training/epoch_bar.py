"""The progress bar of one epoch, on a terminal."""

from __future__ import annotations

import sys
import threading

from tqdm import tqdm

from alexnet_fast.config.schedule import Schedule
from alexnet_fast.training.metrics import Reading


class EpochBar:
    """Steps done of the epoch; beside them the last reading.

    What matters most stands first: a narrow terminal cuts off the rest.
    """

    def __init__(self, schedule: Schedule, epoch: int, step: int) -> None:
        """`epoch`: its number from 0; `step`: of the run, done so far."""
        tqdm.set_lock(threading.RLock())  # not the system's semaphore, which a killed process leaves behind
        self.first = epoch * schedule.steps_per_epoch
        self.name = f"epoch {epoch + 1}/{schedule.num_epochs}"
        total = min(schedule.steps_per_epoch, schedule.num_steps - self.first)
        self.bar = tqdm(
            total=total,
            initial=step - self.first,
            bar_format=self.format_with(""),
            dynamic_ncols=True,
            leave=False,
            file=sys.stderr,
        )

    def show(self, step: int, reading: Reading, *, gpu_memory_gb: float | None, time_left: str) -> None:
        """What the steps up to `step` of the run were like."""
        self.bar.n = step - self.first
        memory = "" if gpu_memory_gb is None else f", {gpu_memory_gb:.1f} GB"
        self.bar.bar_format = self.format_with(
            f"{time_left} left, {reading.images_per_s:,.0f} img/s, loss {reading.loss:.3f}, "
            f"error {reading.error:.1%}, {reading.data_wait:.0%} waiting{memory}"
        )
        self.bar.refresh()

    def format_with(self, text: str) -> str:
        """tqdm's format string for what stands around a bar."""
        return f"{self.name} |{{bar}}| {text}"

    def close(self) -> None:
        """Clear the line."""
        self.bar.close()
