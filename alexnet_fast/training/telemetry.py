"""What a run tells: metrics.jsonl, TensorBoard files, a progress bar; plain lines where the output is no terminal.

metrics.jsonl, one JSON object a line, shares and errors as fractions 0..1:
  kind "train": step (done so far), epoch (as a fraction), loss and error (means since the line before, with dropout),
      images_per_s, data_wait (share of the time), lr_weights, lr_biases, pca_jitter,
      seconds (since the program started), gpu_memory_gb (peak, on a GPU)
  kind "val": step, epoch, views, samples, loss, top1_error, top5_error, seconds
  kind "session": step, epoch, data (the shards folder), options (of `train`, beside the run's folder and recipe; null:
      torchrun started it), seconds: the program begins, or goes on
  kind "event": step, epoch, event, seconds: something that happened once, in words
  kind "diverged": as "event": the loss, a gradient or a weight was NaN or infinite, and the run ended

A number that is NaN or infinite is null, and so is the top-5 error where there are five classes or fewer.  TensorBoard
has the same numbers by step: train/…, val/… (center view), val_10_views/….
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from alexnet_fast.config.schedule import Rates, Schedule
from alexnet_fast.inference.evaluation import EvaluationResult, format_errors
from alexnet_fast.runs.folder import RunFolder, to_json
from alexnet_fast.training.epoch_bar import EpochBar
from alexnet_fast.training.metrics import Reading

PLAIN_SECONDS = 30.0
"""Between two lines of progress where nobody watches a terminal."""
FIRST_PLAIN_SECONDS = 3.0
"""Before the first of them: who left the run to itself wants to know early how long it will take."""
NO_CURVES = ("views", "samples")
"""Numbers of metrics.jsonl that TensorBoard need not draw."""


class Telemetry:
    """Everything that the main rank says; `Silent` is what the others have."""

    def __init__(self, folder: RunFolder, schedule: Schedule, *, first_step: int, quiet: bool = False) -> None:
        self.schedule = schedule
        self.quiet = quiet
        self.began = time.monotonic()
        self.first_step = first_step
        self.steady_from: tuple[float, int] | None = None
        """Moment and step of the first reading: what came before was slowed by the start."""
        self.estimated = False
        """Whether the duration was told, once, after the first steps."""
        self.next_plain = self.began + FIRST_PLAIN_SECONDS
        self.metrics = folder.metrics.open("a", encoding="utf-8")
        self.complaints: set[str] = set()
        self.board = self.open_board(folder)
        self.shows_bar = not quiet and sys.stderr.isatty()
        self.bar: EpochBar | None = None

    def open_board(self, folder: RunFolder) -> Any:
        """TensorBoard's writer; None, told once, where its folder cannot be written or has a name it cannot take."""
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            return SummaryWriter(str(folder.path / "tensorboard"), purge_step=self.first_step or None)
        except OSError as error:
            self.complain_of_board(error.strerror)
        except UnicodeEncodeError:
            self.complain_of_board("they need a folder whose name is UTF-8")
        return None

    def complain_of_board(self, why: str | None) -> None:
        self.complain(f"TensorBoard's files could not be written ({why}); training goes on without.")

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
            self.bar.show(step, reading, gpu_memory_gb=memory, time_left=self.time_left(step))
        elif not self.quiet and self.steady_from is not None and time.monotonic() >= self.next_plain:
            self.next_plain = time.monotonic() + PLAIN_SECONDS
            images = self.schedule.steps_per_epoch * self.schedule.recipe.batch_size
            self.say(
                f"epoch {self.epoch(step):.2f}: loss {reading.loss:.3f}, error {reading.error:.1%}, "
                f"{reading.images_per_s:,.0f} img/s, {reading.data_wait:.0%} waiting for data, "
                f"{in_hours(images / reading.images_per_s)} an epoch, {self.time_left(step)} left"
            )
        if self.steady_from is None:
            self.steady_from = time.monotonic(), step
        elif not self.estimated:
            self.estimated = True
            self.say(f"At {reading.images_per_s:,.0f} img/s, training takes about {self.time_left(step)} from here.")

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
            f"epoch {self.epoch(step):g}: {'validation' if split == 'val' else split} error "
            f"{format_errors(result.top1_error, result.top5_error)} "
            f"({'center view' if views == 1 else f'{views} views'}, {result.num_samples:,} images, {result.precision})"
        )

    def event(self, step: int, text: str) -> None:
        """Something that happened once."""
        self.write("event", step, {"event": text})
        self.say(text)

    def session(self, step: int, data: Path, options: Sequence[str] | None) -> None:
        """With what the program goes to work, for whoever is asked how to go on: see `going_on`."""
        self.write("session", step, {"data": str(data.absolute()), "options": options})

    def diverged(self, step: int, text: str) -> None:
        """The run's end; the error itself is said by whoever catches it."""
        self.write("diverged", step, {"event": text})

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """To metrics.jsonl and TensorBoard."""
        seconds = round(time.monotonic() - self.began, 2)
        line = {"kind": kind, "step": step, "epoch": round(self.epoch(step), 6), **values, "seconds": seconds}
        try:
            self.metrics.write(to_json(line) + "\n")
            self.metrics.flush()
        except OSError as error:
            self.complain(f"metrics.jsonl could not be written ({error.strerror}); training goes on without its lines.")
        try:
            for name, value in values.items():
                if self.board is not None and isinstance(value, int | float) and name not in NO_CURVES:
                    group = kind if values.get("views", 1) == 1 else f"{kind}_{values['views']}_views"
                    self.board.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:
            self.board = None  # its thread has ended with the error
            self.complain_of_board(error.strerror)

    def complain(self, text: str) -> None:
        """Say it the first time only."""
        if text not in self.complaints:
            self.complaints.add(text)
            self.say(text)

    def epoch(self, step: int) -> float:
        return step / self.schedule.steps_per_epoch

    def time_left(self, step: int) -> str:
        """Of the run, as `in_hours` writes it."""
        began, first = self.steady_from or (self.began, self.first_step)
        done = step - first
        return in_hours((time.monotonic() - began) / done * (self.schedule.num_steps - step) if done else 0.0)

    def close(self) -> None:
        """Write out what is kept back."""
        self.close_bar()
        with contextlib.suppress(OSError):  # a full disk was complained of
            self.metrics.close()
        if self.board is not None:
            with contextlib.suppress(OSError):
                self.board.close()


def in_hours(seconds: float) -> str:
    """1:23:45"""
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"


class Silent:
    """The telemetry of a process that says nothing."""

    def say(self, text: str) -> None: ...

    def begin_epoch(self, epoch: int, step: int) -> None: ...

    def session(self, step: int, data: Path, options: Sequence[str] | None) -> None: ...

    def diverged(self, step: int, text: str) -> None: ...

    def training(self, step: int, reading: Reading, rates: Rates, pca_jitter: bool) -> None: ...

    def evaluation(self, step: int, views: int, result: EvaluationResult, split: str = "val") -> None: ...

    def event(self, step: int, text: str) -> None: ...

    def close(self) -> None: ...
