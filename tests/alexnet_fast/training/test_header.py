"""What `train` says before the first step, and its bar, in terminals of several widths."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.commands.train_flags import with_flags
from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.config.small_data import suits_demo
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.training.header import advice, header
from tests.forked import run_command
from tests.terminal import frames, run_in_terminal

CPU = torch.device("cpu")
BAR = """
import time
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.training.epoch_bar import EpochBar
from alexnet_fast.training.metrics import Reading
bar = EpochBar(Schedule(load_recipe("2013"), 10009), 12, 120108)
time.sleep(0.7)
reading = Reading(**{"loss": 6.9123, "error": 0.99712, "images_per_s": 1234.5, "data_wait": 0.0312, **EXTRA})
for step in range(120108, 130000, 3000):
    bar.show(step, reading, gpu_memory_gb=12.3, time_left="123:45:06")
    time.sleep(0.05)
print("\\n---")
bar.close()
"""


def lines_of(dataset: Dataset, run: Path) -> dict[str, str]:
    schedule = Schedule(load_recipe("2013", ["epochs=3"]), 31)
    text = header(
        dataset, schedule, layout="both towers in one process", device=CPU, precision=choose_precision(CPU, "fp32"),
        run=run, step=5, resume="`alexnet-fast train shards --resume --out 'my run'`",
    )  # fmt: skip
    assert text.splitlines()[-1] == "  alexnet-fast train shards --resume --out 'my run'"
    return {line[:11].strip(): line[11:] for line in text.splitlines()[:-2]}


def test_the_header_shows_the_run_at_a_glance(tiny_dataset: Dataset, tmp_path: Path) -> None:
    lines = lines_of(tiny_dataset, tmp_path / "my run")
    assert lines["data set"] == f"{tiny_dataset.folder}: 10 classes, 59 train images, 30 val images"
    val = replace(tiny_dataset.split("val"), samples=1)
    single = replace(tiny_dataset, splits={**tiny_dataset.splits, "val": val})
    assert lines_of(single, tmp_path / "my run")["data set"].endswith("59 train images, 1 val image")
    assert lines["schedule"] == "3 epochs × 31 steps = 93 steps of batch 128, of which 5 are done"
    assert lines["recipe"] == "2013: net 167, learning rate 0.01"
    assert "both towers in one process" in lines["device"] and "thread" in lines["device"]
    assert lines["precision"].startswith("fp32") and lines["run folder"] == str(tmp_path / "my run")


def test_a_schedule_that_does_not_fit_is_reported_with_one_that_does(tiny_dataset: Dataset) -> None:
    fits = Schedule(load_recipe("demo"), 3)
    assert advice(tiny_dataset, fits, CPU) == []
    larger = replace(tiny_dataset.split("train"), samples=31 * 128)
    dataset = replace(tiny_dataset, splits={**tiny_dataset.splits, "train": larger})
    (note,) = advice(dataset, Schedule(load_recipe("2013"), 31), CPU)
    last = note.splitlines()[-1]
    assert last.startswith("  alexnet-fast train ") and last.endswith("--recipe demo --epochs 12")
    assert advice(dataset, Schedule(load_recipe("2013"), 31), torch.device("cuda")) == []
    assert advice(dataset, Schedule(load_recipe("demo", ["epochs=95", "schedule_epochs=95"]), 31), CPU) == []
    few = replace(tiny_dataset, splits={**tiny_dataset.splits, "train": replace(larger, samples=180)})
    (note,) = advice(few, Schedule(load_recipe("2013"), 1), CPU)
    assert "95 epochs of 180 images are 95 steps of batch 128" in note
    assert note.endswith("--recipe demo --epochs 67")


@pytest.mark.parametrize(
    ("samples", "epochs", "suits"),
    [
        (4000, 95, True),
        (1000, 95, True),
        (180, 95, True),
        (180, 24, False),
        (1, 95, True),
        (20_000, 95, False),
        (4000, 24, False),
    ],
)
def test_the_demo_recipe_suits_small_data_sets_whose_schedule_has_too_much_or_too_little_to_do(
    samples: int, epochs: int, suits: bool
) -> None:
    assert suits_demo(samples, epochs=epochs, schedule_epochs=epochs) is suits


def test_nothing_to_evaluate_on_is_reported_before(tiny_dataset: Dataset) -> None:
    without = replace(tiny_dataset, splits={"train": tiny_dataset.split("train")})
    (note,) = advice(without, Schedule(load_recipe("demo"), 3), CPU)
    assert "nothing will be evaluated" in note and "--val-fraction" in note
    test = replace(tiny_dataset, splits={"train": tiny_dataset.split("train"), "test": tiny_dataset.split("val")})
    (note,) = advice(test, Schedule(load_recipe("demo"), 3), CPU)
    assert "--val-split test" in note


@pytest.mark.parametrize(
    ("columns", "seen", "unseen"),
    [
        (60, ["epoch 13/95", "123:45:06 left"], ["loss"]),
        (80, ["epoch 13/95", "123:45:06 left", "img/s", "loss 6.912"], ["waiting"]),
        (120, ["123:45:06 left", "1,234 img/s", "loss 6.912", "error 99.7%", "3% waiting for data", "12.3 GB"], []),
    ],
)
def test_the_bar_shows_what_fits_whole_and_a_spinner_before(columns: int, seen: list[str], unseen: list[str]) -> None:
    from alexnet_fast.training.metrics import Reading

    known = {"loss", "error", "images_per_s", "data_wait"}
    extra = {name: 1 for name in Reading.__dataclass_fields__ if name not in known}
    code, written = run_in_terminal([sys.executable, "-c", BAR.replace("EXTRA", repr(extra))], columns)
    states = frames(written, columns)
    assert code == 0, written
    spinning = [state for state in states if "the first steps" in state]
    assert len({re.search(r"  (.) the", state).group(1) for state in spinning}) > 1  # type: ignore[union-attr]
    shown = next(state for state in reversed(states) if " left" in state)
    assert all(text in shown for text in seen) and not any(text in shown for text in unseen), shown
    assert shown.startswith("epoch 13/95") and "██" in shown


def test_a_run_in_a_terminal_of_60_columns(tiny_shards: Path, tmp_path: Path) -> None:
    """The whole command: header, estimate, bar, result; every command stands on its own line."""
    settings = ["--set", "width_divisor=16", "--batch-size", "4", "--set", "final_views=1", "--set", "precision=fp32"]
    words = ["train", str(tiny_shards), *settings, "--epochs", "2", "--out", str(tmp_path / "run"), "--device", "cpu"]
    code, written = run_in_terminal([sys.executable, "-m", "alexnet_fast", *words], 60)
    assert code == 0, written
    for text in ("data set", "recipe", "schedule", "run folder", "to resume after Ctrl-C:", "Center view:"):
        assert text in written
    commands = [line.strip() for line in written.replace("\r", "\n").split("\n") if "alexnet-fast train" in line]
    assert all(line.startswith(("alexnet-fast train ", "python")) for line in commands), commands


def test_without_a_terminal_lines_are_plain(tiny_shards: Path, tmp_path: Path) -> None:
    settings = ["--set", "width_divisor=16", "--batch-size", "8", "--set", "final_views=1"]
    words = ["train", str(tiny_shards), *settings, "--epochs", "1", "--out", str(tmp_path / "run"), "--device", "cpu"]
    finished = run_command(words, tmp_path)
    assert finished.returncode == 0 and "\r" not in finished.stderr and "\x1b" not in finished.stderr
    assert "epoch 1: validation error" in finished.stderr


def test_flags_change_the_recipe_as_settings_do() -> None:
    base = load_recipe("2012")
    recipe = with_flags(base, epochs=5, batch_size=64, lr=0.1, seed=7, val_split="test")
    assert (recipe.epochs, recipe.batch_size, recipe.seed) == (5.0, 64, 7)
    assert (recipe.val_split, recipe.final_split) == ("test", "test")
    assert recipe.lr_weights[0] == 0.1
    for key in ("lr_weights", "lr_biases"):
        assert getattr(recipe, key) == pytest.approx([10 * rate for rate in getattr(base, key)], rel=1e-11)
    assert recipe.lr_conv1 == pytest.approx(10 * base.lr_conv1, rel=1e-11)
    assert with_flags(base, epochs=None, batch_size=None, lr=None, seed=None, val_split=None) is base
    for lr in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="--lr"):
            with_flags(base, epochs=None, batch_size=None, lr=lr, seed=None, val_split=None)
    with pytest.raises(UsageError, match="batch_size"):
        with_flags(base, epochs=None, batch_size=0, lr=None, seed=None, val_split=None)
