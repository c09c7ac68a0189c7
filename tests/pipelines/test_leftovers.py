"""Pipelines leave nothing behind: no memory, threads or files over many epochs, no process at the end or at Ctrl-C."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.pipelines.dali import Pipeline
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.pipeline_run import PipelineRun
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.run import train

EPOCHS = """
import ctypes, gc, json, os, sys, torch
from pathlib import Path
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset

def held():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), resident

dataset = Dataset.load(sys.argv[1])
choices = {"device": torch.device("cpu"), "options": LoaderOptions(1)}
found = []
with TrainingLoader(dataset, batch_size=4, seed=0, **choices) as loader:
    evaluation = EvaluationLoader(dataset, batch_size=10, **choices)
    for epoch in range(50):
        for place, _ in enumerate(loader.epoch(epoch)):
            if place == 7:
                for _ in evaluation:
                    pass
            if place == 9 and epoch % 2:
                break  # the next epoch begins in the middle of this one
        loader.close()
        found.append(held())
print(json.dumps(found))
"""


def test_fifty_epochs_leave_nothing_behind(tiny_dataset: Dataset) -> None:
    command = [sys.executable, "-c", EPOCHS, str(tiny_dataset.folder)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    early, late = (zip(*part, strict=True) for part in (found[18:26], found[42:]))
    (threads, files, memory), (threads_then, files_then, memory_then) = early, late
    assert max(threads_then) <= max(threads)
    assert max(files_then) <= max(files)
    # What is resident goes up and down by 15 MB; its floor stays.  One batch kept in each epoch would be 80 MB.
    assert min(memory_then) - min(memory) < 12e6


def test_training_images_wait_for_the_evaluation(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []

    def evaluation(*arguments: Any, **choices: Any) -> EvaluationLoader:
        running.append(sum(type(thing) is PipelineRun for thing in gc.get_objects()))
        return EvaluationLoader(*arguments, **choices)

    monkeypatch.setattr("alexnet_fast.training.evaluator.EvaluationLoader", evaluation)
    settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=1.5", "precision=fp32"]
    train(tiny_dataset, load_recipe("2013", settings), tmp_path / "run", device="cpu", quiet=True)
    assert len(running) >= 2 and not any(running)


BEGIN = """
import sys, torch
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.tools.dataset import Dataset
loader = TrainingLoader(Dataset.load(sys.argv[1]), batch_size=4, device=torch.device("cpu"), seed=0)
"""
LEAVES = "next(loader.epoch(0))\n"
RAISES = "next(loader.epoch(0))\nraise SystemExit(7)\n"
WAITS = """
def epochs():
    for epoch in range(10**6):
        for _ in loader.epoch(epoch):
            print("batch", flush=True)
"""
STOPS = WAITS + "try:\n    epochs()\nexcept KeyboardInterrupt:\n    print('stopped')\n"


@pytest.mark.parametrize(("ending", "code"), [(LEAVES, 0), (RAISES, 7)])
def test_a_process_ends_cleanly_in_the_middle_of_an_epoch(tiny_dataset: Dataset, ending: str, code: int) -> None:
    command = [sys.executable, "-c", BEGIN + ending, str(tiny_dataset.folder)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (finished.returncode, finished.stderr) == (code, "")


@pytest.mark.parametrize("evaluating", [True, False])
def test_ctrl_c_while_a_pipeline_ends_is_not_lost(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, evaluating: bool
) -> None:
    """In a destructor it would be; one that comes as an epoch ends comes to whoever asked for its batches."""
    shut_down = Pipeline._shutdown
    pressed: list[bool] = []

    def press(pipeline: Any) -> None:
        shut_down(pipeline)
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "_shutdown", press)
    choices: dict[str, Any] = {"batch_size": 20, "device": torch.device("cpu"), "options": LoaderOptions(1)}
    loader = TrainingLoader(tiny_dataset, seed=0, **choices)
    stream = iter(EvaluationLoader(tiny_dataset, **choices)) if evaluating else loader.epoch(0)
    with pytest.raises(KeyboardInterrupt):
        for _ in stream:
            assert not pressed


@pytest.mark.parametrize("caught", [True, False])
def test_a_process_ends_at_once_at_ctrl_c(tiny_dataset: Dataset, caught: bool) -> None:
    code = BEGIN + (STOPS if caught else WAITS + "epochs()\n")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_dataset.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline() == "batch\n"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=120)
    if caught:
        assert process.returncode == 0 and out.endswith("stopped\n") and errors == ""
    else:
        assert process.returncode == -signal.SIGINT and errors.endswith("KeyboardInterrupt\n")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # its group is empty: nothing that it started lives on
