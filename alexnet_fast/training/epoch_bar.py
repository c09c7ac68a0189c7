"""The progress bar of one epoch, on a terminal."""

from __future__ import annotations

import itertools
import sys
import threading

from tqdm import tqdm

from alexnet_fast.config.schedule import Schedule
from alexnet_fast.tools.messages import BAR, fitting, terminal_columns
from alexnet_fast.training.metrics import Reading

TURN = 0.2
"""Seconds between two frames of the spinner."""


class EpochBar:
    """Steps done of the epoch; beside them what is known of the run, as much as the terminal is wide.

    Until the first numbers are there, a spinner turns: the first steps compile kernels and fill the loader.
    """

    def __init__(self, schedule: Schedule, epoch: int, step: int) -> None:
        """`epoch`: its number from 0; `step`: of the run, done so far."""
        self.first = epoch * schedule.steps_per_epoch
        self.name = f"epoch {epoch + 1}/{schedule.num_epochs}"
        total = min(schedule.steps_per_epoch, schedule.num_steps - self.first)
        self.bar = tqdm(
            total=total,
            initial=step - self.first,
            bar_format=f"{self.name} {{percentage:3.0f}}%",
            dynamic_ncols=True,
            leave=False,
            file=sys.stderr,
        )
        self.started = threading.Event()
        self.spinner = threading.Thread(target=self.spin, daemon=True)
        self.spinner.start()

    def spin(self) -> None:
        """Until the first `show`."""
        for sign in itertools.cycle("-\\|/"):
            if self.started.wait(TURN):
                return
            try:
                self.bar.bar_format = f"{self.name}  {sign} the first steps start slowly"
                self.bar.refresh()
            except (OSError, ValueError):  # a terminal that was closed
                return

    def end_spinner(self) -> None:
        """Afterwards the bar writes nothing more."""
        self.started.set()
        self.spinner.join()

    def show(self, step: int, reading: Reading, *, gpu_memory_gb: float | None, time_left: str) -> None:
        """What the steps up to `step` of the run were like."""
        self.end_spinner()
        self.bar.n = step - self.first
        start = f"{self.name} {self.bar.n / (self.bar.total or 1):4.0%}"
        facts = [
            f"{time_left} left",
            f"{reading.images_per_s:,.0f} img/s",
            f"loss {reading.loss:.3f}",
            f"error {reading.error:.1%}",
            f"{reading.data_wait:.0%} waiting for data",
            *([] if gpu_memory_gb is None else [f"{gpu_memory_gb:.1f} GB"]),
        ]
        columns = terminal_columns()
        self.bar.bar_format = f"{start} |{{bar}}| {fitting(facts, columns, len(start) + BAR)}"
        self.bar.refresh()

    def close(self) -> None:
        """Clear the line."""
        self.end_spinner()
        self.bar.close()
