"""What `info` says of a run: while it runs, when it was stopped, and of files cut short."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from alexnet_fast.commands.main import group
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.runs.checkpoint import saved_checkpoints
from alexnet_fast.runs.describe import describe_run
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.errors import UserError
from tests.forked import Command, run_command


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """10 epochs of 50 steps of 100 images, 4 epochs of them done; the last line of the metrics is half-written."""
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    recipe = load_recipe("2013", ["epochs=10", "batch_size=100", "lr_base_batch_size=100"])
    folder.recipe.write_text(recipe.to_toml(named=True))
    train = {"kind": "train", "epoch": 4.0, "step": 200, "loss": 1.5, "error": 0.4, "images_per_s": 2.5}
    train |= {"lr_weights": 0.01}
    val = {"kind": "val", "epoch": 4, "step": 200, "views": 1, "loss": 1.25, "top1_error": 0.375, "top5_error": 0.0625}
    lines = [json.dumps(line) for line in (train | {"data_wait": 0.03}, val)]
    folder.metrics.write_text("\n".join(lines) + '\n{"kind": "tr')
    return folder


def test_a_running_run_says_where_it_is_and_how_long_it_takes(run: RunFolder) -> None:
    with run.lock():
        message = describe_run(run)
    # 6 epochs of 5,000 images at 2.5 a second: 12,000 s.
    assert "running, epoch 4.00 of 10, about 3.3 h of training left" in message
    assert "loss 1.500, error 40.0%, 2 img/s, 3% waiting for data" in message
    assert message.splitlines()[-1].split() == ["4", "1", "37.50%", "6.25%", "1.250"]


def test_a_stopped_run_says_how_to_resume(run: RunFolder) -> None:
    message = describe_run(run)
    assert "stopped at epoch 4.00 of 10" in message and "--resume" in message


def test_a_run_that_has_only_begun(run: RunFolder) -> None:
    run.metrics.unlink()
    with run.lock():
        assert "running, epoch 0.00 of 10" in describe_run(run)


def test_a_diverged_run_says_so_and_why(run: RunFolder) -> None:
    words = "step 210: the loss is NaN. The rates were 1"
    diverged = {"kind": "diverged", "epoch": 4.2, "step": 210, "event": words}
    bad = {"kind": "train", "epoch": 4.2, "step": 210, "loss": None, "error": 1.0, "images_per_s": None}
    bad |= {"data_wait": 0, "lr_weights": 1}
    lines = run.metrics.read_text().splitlines()[:2] + [json.dumps(line) for line in (bad, diverged)]
    run.metrics.write_text("\n".join(lines) + "\n")
    message = describe_run(run)
    assert "state        diverged at epoch 4.20 of 10" in message
    assert f"last event   epoch 4.20: {words}" in message and "loss nan" in message


def test_a_damaged_result_is_reported(run: RunFolder) -> None:
    run.result.write_text('{"steps": 500, "seconds": 6000.0, "epochs": 1.0}')
    assert "done after 1 epoch (1.7 h of work)" in describe_run(run)
    for content in ("\0", "{}", '{"steps": 500, "seconds": "6000", "epochs": 1}', "[" * 100_000):
        run.result.write_text(content)
        assert "done, but" in describe_run(run) and "result.json is damaged" in describe_run(run)


def test_of_too_few_classes_there_is_no_top5_error(run: RunFolder) -> None:
    assert "top-5" in describe_run(run)
    lines = run.read_metrics()
    lines[1]["top5_error"] = None
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = describe_run(run)
    assert "top-5" not in message and "    4      1       37.50%    1.250\n\nTo resume:\n" in message


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_metrics_that_are_no_file_get_a_clear_message(make: Callable[[Path], None], run: RunFolder) -> None:
    run.metrics.unlink()
    make(run.metrics)
    with pytest.raises(UserError, match=r"metrics.jsonl: .*(folder|pipe).* move it away"):
        describe_run(run)


@pytest.mark.parametrize("before", ["", "\nepochs = "])
def test_a_recipe_cut_short_is_reported_since_the_run_cannot_resume(before: str, run: RunFolder) -> None:
    """What it no longer says would be the defaults: another length, another command."""
    text = run.recipe.read_text()
    run.recipe.write_text(text[: text.index(before)])
    with pytest.raises(UserError, match=r"says nothing of .*epochs.* the newest checkpoint holds the recipe"):
        describe_run(run)


def test_info_of_a_run_while_it_runs(tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("width_divisor=16", "batch_size=4", "epochs=400", "shuffle_buffer=20", "precision=fp32")
    words = [word for setting in settings for word in ("--set", setting)]
    command = ["train", str(tiny_shards), *words, "--out", str(run), "--device", "cpu", "--quiet"]
    with Command(command, tmp_path / "train") as process:
        while not any(line["kind"] == "val" for line in RunFolder(run).read_metrics()):
            assert process.poll() is None
            time.sleep(0.05)
        asked = run_command(["info", run], tmp_path / "info")
        still_running = process.poll() is None
    assert still_running and asked.returncode == 0, asked.stderr
    assert "state        running, epoch " in asked.stdout and " of 400, about " in asked.stdout
    assert "checkpoints  " in asked.stdout and "top-1 error" in asked.stdout
    assert "state        stopped at epoch " in describe_run(RunFolder(run))


def test_predict_says_that_a_run_is_not_done(small_run: Path, tmp_path: Path) -> None:
    image, run = tmp_path / "image.png", tmp_path / "run"
    Image.new("RGB", (64, 64), "red").save(image)
    shutil.copytree(small_run, run)
    (run / "result.json").unlink()
    newest = saved_checkpoints(run / "checkpoints")[-1]
    for asked, note in (
        (run, f"{run}: this run is not done; {newest.name} is used, from epoch 1 of 1\n"),
        (newest, ""),
        (small_run, ""),
    ):
        done = CliRunner().invoke(group, ["predict", str(asked), str(image), "--views", "1", "--device", "cpu"])
        assert done.exit_code == 0 and done.stderr == note
        assert "is not done" not in done.stdout
