"""What a run tells: metrics.jsonl, TensorBoard's files, the progress bar, and silence where it belongs."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.config.schedule import Rates, Schedule
from alexnet_fast.inference.evaluation import EvaluationResult
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.training.metrics import Reading
from alexnet_fast.training.telemetry import Telemetry

READING = Reading(loss=1.5, error=0.25, images_per_s=1234.5, data_wait=0.125)
RATES = Rates(0.01, 0.02, 0.01, 0.02)


class Terminal(io.StringIO):
    """In place of stderr."""

    def isatty(self) -> bool:
        return True


def telemetry_of(folder: Path, *, epochs: float = 3, quiet: bool = False) -> Telemetry:
    """Ten steps an epoch."""
    return Telemetry(
        RunFolder(folder), Schedule(load_recipe("2013", [f"epochs={epochs}"]), 10), first_step=0, quiet=quiet
    )


def tell_everything(telemetry: Telemetry) -> None:
    telemetry.begin_epoch(0, 0)
    telemetry.training(5, READING, RATES, True)
    telemetry.evaluation(10, 1, EvaluationResult(30, 1.25, 0.5, 0.125))
    telemetry.begin_epoch(1, 10)
    telemetry.training(15, Reading(math.nan, 0.5, 1000.0, 0.0), RATES, False)
    telemetry.evaluation(30, 10, EvaluationResult(30, 1.0, 0.375, 0.0625))
    telemetry.event(30, "something")
    telemetry.diverged(30, "all is lost")
    telemetry.close()


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    tell_everything(telemetry_of(tmp_path, quiet=True))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").open()]
    assert [(line["kind"], line["step"], line["epoch"]) for line in lines] == [
        ("train", 5, 0.5), ("val", 10, 1.0), ("train", 15, 1.5), ("val", 30, 3.0), ("event", 30, 3.0),
        ("diverged", 30, 3.0),
    ]  # fmt: skip
    assert {"loss": 1.5, "error": 0.25, "images_per_s": 1234.5, "data_wait": 0.125, "pca_jitter": True}.items() <= (
        lines[0].items()
    )
    assert lines[2]["loss"] is None
    assert (lines[3]["views"], lines[3]["samples"], lines[3]["top5_error"]) == (10, 30, 0.0625)
    assert lines[5]["event"] == "all is lost"


def test_a_folder_whose_name_tensorboard_cannot_take_costs_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"no utf-8 \xff")
    folder.mkdir()
    tell_everything(telemetry_of(folder))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6
    assert (
        "TensorBoard's files could not be written (they need a folder whose name is UTF-8)" in capsys.readouterr().err
    )


def test_tensorboard_draws_what_can_be_drawn(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell_everything(telemetry_of(tmp_path, quiet=True))
    board: Any = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    errors = ("loss", "top1_error", "top5_error")
    assert set(board.Tags()["scalars"]) == {
        *(f"train/{name}" for name in ("loss", "error", "images_per_s", "data_wait", "lr_weights", "lr_biases")),
        "train/pca_jitter",
        *(f"val/{name}" for name in errors),
        *(f"val_10_views/{name}" for name in errors),
    }
    curve = [(point.step, point.value) for point in board.Scalars("train/error")]
    assert curve == [(5, 0.25), (15, 0.5)]
    assert [(point.step, point.value) for point in board.Scalars("val/top1_error")] == [(10, 0.5)]
    assert [(point.step, point.value) for point in board.Scalars("val_10_views/top1_error")] == [(30, 0.375)]


def test_without_room_for_tensorboard_the_rest_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").touch()
    tell_everything(telemetry_of(tmp_path))
    message = capsys.readouterr().err
    assert message.count("TensorBoard's files could not be written (File exists); training continues") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_log_on_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        tell_everything(telemetry_of(tmp_path))
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_terminal_has_a_bar_for_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(
        "alexnet_fast.training.telemetry.Telemetry.time_left", lambda telemetry, step, reading: "1:02:03"
    )
    tell_everything(telemetry_of(tmp_path, epochs=1.5))
    drawn = [text for text in terminal.getvalue().split("\r") if "|" in text]
    assert all(text.startswith(("epoch 1/2", "epoch 2/2")) for text in drawn)
    half = next(text for text in drawn if "img/s" in text)
    assert half.startswith("epoch 1/2  50% |") and "| 1:02:03 left, 1,234 img/s, loss 1.500" in half
    # The second epoch is half a one: its five steps are all there are.
    assert drawn[-1].startswith("epoch 2/2 100% |") and "| 1:02:03 left, 1,000 img/s, loss nan" in drawn[-1]
    assert "epoch 1: validation error 50.00% top-1" in terminal.getvalue()


class Clock:
    """In place of `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def test_without_a_terminal_the_first_line_comes_early_with_the_time_it_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("alexnet_fast.training.telemetry.time", clock)
    telemetry = telemetry_of(tmp_path, epochs=20)
    reading = Reading(loss=1.5, error=0.25, images_per_s=128 / 2, data_wait=0.0)  # two seconds a step
    heard = {}
    for step, seconds in ((1, 10), (3, 4), (5, 4), (9, 8), (14, 10), (19, 10)):
        clock.now += seconds  # the first step is slow, and does not count
        telemetry.training(step, reading, RATES, True)
        heard[step] = capsys.readouterr().err
    telemetry.close()
    assert heard[3].startswith("epoch 0.30: loss") and " 0:00:20 an epoch, 0:06:34 left\n" in heard[3]
    assert heard[19].endswith(" 0:00:20 an epoch, 0:06:02 left\n")
    assert [step for step, line in heard.items() if line] == [3, 19]


def test_an_evaluation_just_after_a_resume_does_not_count_for_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("alexnet_fast.training.telemetry.time", clock)
    telemetry = telemetry_of(tmp_path, epochs=20)
    reading = Reading(loss=1.5, error=0.25, images_per_s=128 / 2, data_wait=0.0)  # two seconds a step, ten an epoch
    telemetry.training(19, reading, RATES, True)
    clock.now += 62  # a step, and an evaluation of a minute
    telemetry.training(20, reading, RATES, True)
    assert telemetry.seconds_left(20, reading) == 2 * 180
    clock.now += 78
    assert telemetry.seconds_left(39, reading) == (62 + 78) / 20 * 161  # evaluations included
    telemetry.close()


def test_without_a_terminal_lines_are_plain_and_quiet_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_fast.training.telemetry.FIRST_PLAIN_SECONDS", 0.0)
    for name in ("plain", "quiet"):
        (tmp_path / name).mkdir()
    tell_everything(telemetry_of(tmp_path / "plain"))
    message = capsys.readouterr().err
    assert "epoch 1.50: loss nan, error 50.0%, 1,000 img/s, 0% waiting for data, 0:00:01 an epoch" in message
    assert "\r" not in message and "|" not in message and "\x1b" not in message
    tell_everything(telemetry_of(tmp_path / "quiet", quiet=True))
    assert capsys.readouterr() == ("", "")
