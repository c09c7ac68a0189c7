"""The command that resumes a run: it can be copied, and works."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.torchrun_env import started_processes
from alexnet_fast.runs.describe import describe_run
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume_command import options_to_repeat, resume_command
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.training.telemetry import Telemetry

NOTHING: dict[str, Any] = {
    "device": None, "gpus": None, "processes": None, "parallel": "auto", "deterministic": False, "cache_decoded": None,
}  # fmt: skip
SMALL = ("width_divisor=16", "batch_size=4", "lr_base_batch_size=4", "precision=fp32", "final_views=1", "epochs=3")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ""),
        ({"device": "cpu", "processes": 2, "parallel": "towers"}, "--device cpu --processes 2 --parallel towers"),
        ({"gpus": 2, "cache_decoded": "auto", "deterministic": True}, "--gpus 2 --cache-decoded auto --deterministic"),
        ({"cache_decoded": 3.5}, "--cache-decoded 3.5"),
    ],
)
def test_what_the_run_does_not_hold_is_repeated(given: dict[str, Any], words: str) -> None:
    options = options_to_repeat(**{**NOTHING, **given})
    message = resume_command(Path("my shards"), Path("runs/a"), options)
    assert message == f"`alexnet-fast train 'my shards' --resume --out runs/a{' ' if words else ''}{words}`"


def test_torchrun_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert resume_command("shards", Path("run"), options_to_repeat(**NOTHING)) == "the same torchrun command"


@pytest.mark.parametrize(
    ("size", "rank", "words"), [("abc", "0", "cannot be"), ("2", "2", "MASTER_ADDR"), ("1", "1", "cannot be")]
)
def test_variables_that_no_launcher_sets_are_reported(
    size: str, rank: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten in a shell, they ended in torch's traceback."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"WORLD_SIZE={size} and RANK={rank} .*{words}.* unset"):
        started_processes()


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--processes", "2"), "--resume --out {run} --processes 2"), (None, "same torchrun command")],
)
def test_info_knows_the_last_session(options: tuple[str, ...] | None, words: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    recipe = load_recipe("2013")
    folder.recipe.write_text(recipe.to_toml(named=True))
    assert "train … --resume" in describe_run(folder)
    telemetry = Telemetry(folder, Schedule(recipe, 10), first_step=0, quiet=True)
    telemetry.session(0, Path("/old"), ())
    telemetry.session(0, Path(os.fsdecode(b"/new \xff")), options)
    telemetry.close()
    message = describe_run(folder)
    assert words.format(run=tmp_path) in message and (options is None or r"train $'/new \xff' " in message)


@pytest.mark.parametrize("line", [{"data": 3, "options": []}, {"data": "x", "options": [1]}, {"data": "x"}, {}])
def test_damaged_sessions_are_passed_over(line: dict[str, Any], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(json.dumps({"kind": "session", "step": 0, "epoch": 0, **line}) + "\n")
    assert folder.read_metrics() == []


def test_the_printed_command_resumes(tiny_shards: Path, tmp_path: Path) -> None:
    """As a user does it: Ctrl-C, copy, paste."""
    run = tmp_path / "my run"
    settings = [word for setting in SMALL for word in ("--set", setting)]
    program = Path(sys.executable).parent / "alexnet-fast"
    begin = [str(program), "train", str(tiny_shards), *settings, "--out", run.name, "--device", "cpu"]
    with subprocess.Popen(begin, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        while not list((run / "checkpoints").glob("step-*.pt")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "everything is saved" in message
    copied = re.findall(r"everything is saved\. To resume:\n  (.+)\n", message)
    assert len(copied) == 1
    # The second one to copy: `info` names the shards from wherever it is asked.
    (asked,) = re.findall(r"\n\nTo resume:\n  (.+)$", describe_run(RunFolder(run)))
    assert shlex.split(asked)[1:] == ["train", str(tiny_shards), "--resume", "--out", str(run), "--device", "cpu"]
    done = subprocess.run(copied[0], shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "result.json").read_text())["epochs"] == 3
    assert "starts it again" not in done.stderr and "recipe has changed" not in done.stderr
