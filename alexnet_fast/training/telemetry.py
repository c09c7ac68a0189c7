"""What a run reports: metrics.jsonl, TensorBoard's files, a progress bar; plain lines where there is no terminal.

metrics.jsonl has one JSON object a line; docs/runs.md lists every key.  TensorBoard has the same numbers by step:
train/…, val/… (center view), val_10_views/….
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from alexnet_fast.config.recipe import rounded_epochs
from alexnet_fast.config.schedule import Rates, Schedule
from alexnet_fast.inference.evaluation import EvaluationResult, format_errors
from alexnet_fast.runs.folder import RunFolder, to_json
from alexnet_fast.tools.messages import duration
from alexnet_fast.training.board import Board
from alexnet_fast.training.epoch_bar import EpochBar
from alexnet_fast.training.metrics import Reading

PLAIN_SECONDS = 30.0
"""Between two lines of progress where the output is no terminal."""
FIRST_PLAIN_SECONDS = 3.0
"""Before the first of them, so that one learns early how long the run will take."""


class Telemetry:
    """Everything that the main rank reports; `Silent` is what the others have."""

    def __init__(self, folder: RunFolder, schedule: Schedule, *, first_step: int, quiet: bool = False) -> None:
        tqdm.set_lock(threading.RLock())  # not the system's semaphore, which an ended process leaves behind
        self.schedule = schedule
        self.quiet = quiet
        self.began = time.monotonic()
        self.first_step = first_step
        self.steady_from: tuple[float, int] | None = None
        """Moment and step of the first reading: what came before was slowed by the start."""
        self.estimated = False
        """Whether the estimated duration was printed, once, after the first steps."""
        self.next_plain = self.began + FIRST_PLAIN_SECONDS
        self.metrics = folder.metrics.open("a", encoding="utf-8")
        self.complaints: set[str] = set()
        self.board = Board(folder, self.complain)
        self.shows_bar = not quiet and sys.stderr.isatty()
        self.bar: EpochBar | None = None

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            with contextlib.suppress(OSError):  # a log on a full disk is no reason to stop
                tqdm.write(text, file=sys.stderr)

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Show a bar for the epoch (from 0), where there is a terminal; `step`: done so far."""
        if self.shows_bar:
            self.close_bar()
            self.bar = EpochBar(self.schedule, epoch, step)

    def close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def training(self, step: int, reading: Reading, rates: Rates, pca_jitter: bool) -> None:
        """What the steps since the last call were like."""
        values: dict[str, Any] = {
            "loss": reading.loss,
            "error": reading.error,
            "images_per_s": round(reading.images_per_s, 1),
            "data_wait": round(reading.data_wait, 4),
            "lr_weights": rates.weights,
            "lr_biases": rates.biases,
            "pca_jitter": pca_jitter,
        }
        memory = None
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            memory = values["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        self.write("train", step, values)
        if self.bar is not None:
            self.bar.show(step, reading, gpu_memory_gb=memory, time_left=self.time_left(step, reading))
        elif not self.quiet and self.steady_from is not None and time.monotonic() >= self.next_plain:
            self.next_plain = time.monotonic() + PLAIN_SECONDS
            images = self.schedule.steps_per_epoch * self.schedule.recipe.batch_size
            self.say(
                f"epoch {self.epoch(step):.2f}: loss {reading.loss:.3f}, error {reading.error:.1%}, "
                f"{reading.images_per_s:,.0f} img/s, {reading.data_wait:.0%} waiting for data, "
                f"{in_hours(images / reading.images_per_s)} an epoch, {self.time_left(step, reading)} left"
            )
        if self.steady_from is None:
            self.steady_from = time.monotonic(), step
        elif not self.estimated:
            self.estimated = True
            left = duration(self.seconds_left(step, reading))
            self.say(f"At {reading.images_per_s:,.0f} img/s, training takes about {left} from here.")

    def evaluation(self, step: int, views: int, result: EvaluationResult, split: str = "val") -> None:
        """An evaluation's errors."""
        self.close_bar()
        self.write(
            "val",
            step,
            {
                "views": views,
                "samples": result.num_samples,
                "loss": result.loss,
                "top1_error": result.top1_error,
                "top5_error": result.top5_error,
                "split": split,
                "precision": result.precision,
            },
        )
        self.say(
            f"epoch {rounded_epochs(self.epoch(step))}: {'validation' if split == 'val' else split} error "
            f"{format_errors(result.top1_error, result.top5_error)} "
            f"({'center view' if views == 1 else f'{views} views'}, {result.num_samples:,} images, {result.precision})"
        )

    def event(self, step: int, text: str) -> None:
        """Something that happened once."""
        self.write("event", step, {"event": text})
        self.say(text)

    def session(self, step: int, data: Path, options: Sequence[str] | None) -> None:
        """The program begins or resumes: with what data and options, for the command that resumes the run."""
        self.write("session", step, {"data": str(data.absolute()), "options": options})

    def diverged(self, step: int, text: str) -> None:
        """The run's end; the error itself is printed by whoever catches it."""
        self.write("diverged", step, {"event": text})

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """To metrics.jsonl and TensorBoard."""
        line = {
            "kind": kind,
            "step": step,
            "epoch": round(self.epoch(step), 6),
            **values,
            "seconds": round(time.monotonic() - self.began, 2),
            "time": round(time.time(), 2),
        }
        try:
            self.metrics.write(to_json(line) + "\n")
            self.metrics.flush()
        except OSError as error:
            self.complain(
                f"metrics.jsonl could not be written ({error.strerror}); training continues without its lines."
            )
        self.board.draw(line)

    def complain(self, text: str) -> None:
        """Print it the first time only."""
        if text not in self.complaints:
            self.complaints.add(text)
            self.say(text)

    def epoch(self, step: int) -> float:
        return step / self.schedule.steps_per_epoch

    def time_left(self, step: int, reading: Reading) -> str:
        """Of the run, as `in_hours` writes it."""
        return in_hours(self.seconds_left(step, reading))

    def seconds_left(self, step: int, reading: Reading) -> float:
        """As fast as since the first reading, evaluations included; within an epoch of it, as fast as this reading.

        Otherwise an evaluation just after a resume would count for every step that is left.
        """
        left = self.schedule.num_steps - step
        began, first = self.steady_from or (self.began, self.first_step)
        done = step - first
        if done < self.schedule.steps_per_epoch:
            return left * self.schedule.recipe.batch_size / reading.images_per_s
        return (time.monotonic() - began) / done * left

    def close(self) -> None:
        """Write out what is kept back."""
        self.close_bar()
        with contextlib.suppress(OSError):  # a full disk was reported
            self.metrics.close()
        self.board.close()


def in_hours(seconds: float) -> str:
    """1:23:45"""
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"


class Silent:
    """The telemetry of a process that reports nothing."""

    def say(self, text: str) -> None: ...

    def begin_epoch(self, epoch: int, step: int) -> None: ...

    def session(self, step: int, data: Path, options: Sequence[str] | None) -> None: ...

    def diverged(self, step: int, text: str) -> None: ...

    def training(self, step: int, reading: Reading, rates: Rates, pca_jitter: bool) -> None: ...

    def evaluation(self, step: int, views: int, result: EvaluationResult, split: str = "val") -> None: ...

    def event(self, step: int, text: str) -> None: ...

    def close(self) -> None: ...
