"""Training on while the clock jumps, while figures and metrics find the disk full, and on a slow file system."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.runs.checkpoint import load_checkpoint
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training import illustrator
from alexnet_fast.training.run import train
from alexnet_fast.training.telemetry import Telemetry

SETTINGS = ("width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "precision=fp32", "final_views=1")
YEAR = 365 * 86_400.0


def train_for(dataset: Dataset, run: Path, epochs: float, *, resume: bool = False) -> dict[str, Any]:
    recipe = load_recipe("2013", [*SETTINGS, f"epochs={epochs}"])
    return train(dataset, recipe, run, device="cpu", quiet=True, resume=resume)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunFolder(run).metrics.read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = max(RunFolder(run).checkpoints.glob("step-*.pt"))
    return load_checkpoint(newest).model


@contextmanager
def no_room_for_figures(path: Path, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """As `atomic.writing`, on a disk that is full when an image is half written."""
    with REAL_WRITING(path, partial) as file:
        yield file
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


REAL_WRITING = atomic.writing


def test_a_clock_that_jumps_by_a_year_changes_nothing(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs in (1, 2):
        steady = train_for(tiny_dataset, tmp_path / "steady", epochs, resume=epochs > 1)
    real, calls = time.time, count()
    monkeypatch.setattr(time, "time", lambda: real() + YEAR * (next(calls) % 3 - 1))
    for epochs in (1, 2):
        jumping = train_for(tiny_dataset, tmp_path / "jumping", epochs, resume=epochs > 1)
    assert next(calls) > 10
    one, other = weights(tmp_path / "steady"), weights(tmp_path / "jumping")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert jumping["center_view"] == steady["center_view"] and 0 < jumping["seconds"] < 3600
    found = records(tmp_path / "jumping")
    assert [line["step"] for line in found] == sorted(line["step"] for line in found)
    assert all(0 <= line["seconds"] < 3600 for line in found)
    assert all(line["images_per_s"] > 0 for line in found if line["kind"] == "train")


def test_a_disk_that_fills_while_figures_are_drawn(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(illustrator, "DRAW_SECONDS", 0.0)
    real = Telemetry.say
    said: list[str] = []

    def say(telemetry: Telemetry, text: str) -> None:
        said.append(text)
        if text.startswith("epoch 2:"):
            monkeypatch.setattr(atomic, "writing", REAL_WRITING)  # somebody makes room
        real(telemetry, text)

    monkeypatch.setattr(Telemetry, "say", say)
    monkeypatch.setattr(atomic, "writing", no_room_for_figures)
    train_for(tiny_dataset, tmp_path / "run", 3)
    assert any("The figures could not be written (No space left on device)" in text for text in said)
    run = RunFolder(tmp_path / "run")
    assert run.result.exists() and (run.figures / "curves.png").stat().st_size > 1000
    assert not list(run.path.rglob("*.partial"))


def test_a_disk_that_fills_during_metrics(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullAtTimes:
        """A file whose lines reach the disk, but for the third to the fifth."""

        def __init__(self, file: Any) -> None:
            self.file, self.calls = file, count()

        def write(self, text: str) -> None:
            if 2 <= next(self.calls) <= 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(text)

        def flush(self) -> None:
            self.file.flush()

        def close(self) -> None:
            self.file.close()

    init = Telemetry.__init__
    said: list[str] = []

    def started(telemetry: Telemetry, *arguments: Any, **options: Any) -> None:
        init(telemetry, *arguments, **options)
        telemetry.metrics = FullAtTimes(telemetry.metrics)  # type: ignore[assignment]

    monkeypatch.setattr(Telemetry, "__init__", started)
    monkeypatch.setattr(Telemetry, "say", lambda telemetry, text: said.append(text))
    train_for(tiny_dataset, tmp_path / "run", 4)
    told = [text for text in said if "metrics.jsonl could not be written (No space left on device)" in text]
    assert len(told) == 1
    kept = records(tmp_path / "run")
    assert RunFolder(tmp_path / "run").result.exists() and [kept[0]["kind"], kept[-1]["epoch"]] == ["session", 4.0]


def test_a_slow_file_system_changes_nothing(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS may be: every flush to the disk and every listing of a folder takes its time."""
    for epochs in (1, 2):
        train_for(tiny_dataset, tmp_path / "fast", epochs, resume=epochs > 1)
    fsync, listed = os.fsync, os.listdir

    def late(call: Any) -> Any:
        def slow(*arguments: Any) -> Any:
            time.sleep(0.05)
            return call(*arguments)

        return slow

    monkeypatch.setattr(os, "fsync", late(fsync))
    monkeypatch.setattr(os, "listdir", late(listed))
    for epochs in (1, 2):
        train_for(tiny_dataset, tmp_path / "slow", epochs, resume=epochs > 1)
    one, other = weights(tmp_path / "fast"), weights(tmp_path / "slow")
    assert all(torch.equal(one[name], other[name]) for name in one)
