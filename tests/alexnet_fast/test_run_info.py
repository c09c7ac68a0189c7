"""What `info` says of a run: while it runs, when it was stopped, and of files cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_fast.recipe import load_recipe
from alexnet_fast.run_folder import RunFolder
from alexnet_fast.run_info import describe_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """10 epochs of 50 steps of 100 pictures, 4 epochs of them done; the last line of the metrics is half-written."""
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    recipe = load_recipe("2013", ["epochs=10", "batch_size=100", "rates_for_batch=100"])
    folder.recipe.write_text(recipe.to_toml())
    train = {"kind": "train", "epoch": 4.0, "step": 200, "loss": 1.5, "error": 0.4, "pictures_per_s": 2.5}
    val = {"kind": "val", "epoch": 4, "step": 200, "views": 1, "loss": 1.25, "top1_error": 0.375, "top5_error": 0.0625}
    lines = [json.dumps(line) for line in (train | {"data_wait": 0.03}, val)]
    folder.metrics.write_text("\n".join(lines) + '\n{"kind": "tr')
    return folder


def test_a_running_run_says_where_it_is_and_how_long_it_takes(run: RunFolder) -> None:
    with run.lock():
        told = describe_run(run)
    # 6 epochs of 5,000 pictures at 2.5 a second: 12,000 s.
    assert "running, epoch 4.00 of 10, about 3.3 hours of training left" in told
    assert "loss 1.500, error 40.0%, 2 pictures/s, 3% waiting for data" in told
    assert told.splitlines()[-1].split() == ["4", "1", "37.50%", "6.25%", "1.250"]


def test_a_stopped_run_says_how_to_go_on(run: RunFolder) -> None:
    told = describe_run(run)
    assert "stopped at epoch 4.00 of 10" in told and "--resume" in told


def test_a_run_that_has_only_begun(run: RunFolder) -> None:
    run.metrics.unlink()
    with run.lock():
        assert "running, epoch 0.00 of 10" in describe_run(run)
