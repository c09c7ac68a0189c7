"""Runs that are killed and stopped: again and again, at random moments, and yet to the bit what an unbroken one is."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import Recipe, load_recipe
from alexnet_fast.inference.evaluation import EvaluationResult
from alexnet_fast.runs.checkpoint import load_checkpoint, saved_checkpoints
from alexnet_fast.runs.figures import Floats, conv1_history, record_conv1
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training import illustrator
from alexnet_fast.training.run import train
from alexnet_fast.training.train_step import TrainingStep
from tests.forked import Command, run_command, start_server
from tests.saved_state import assert_same_state

SETTINGS = (
    "width_divisor=16",
    "batch_size=4",
    "lr_base_batch_size=4",
    "precision=fp32",
    "final_views=1",
    "shuffle_buffer=20",
    "checkpoint_minutes=0.0001",
)
SECONDS = 200
"""More than anything here takes."""


PROGRAM = [sys.executable, "-m", "alexnet_fast"]


def arguments(shards: Path, run: Path, *settings: str, options: tuple[str, ...] = ()) -> list[str]:
    sets = [argument for setting in (*SETTINGS, *settings) for argument in ("--set", setting)]
    return ["train", str(shards), *sets, "--out", str(run), "--device", "cpu", *options]


def start(dataset: Dataset, recipe: Recipe, run: Path) -> BaseProcess:
    """Train, or resume, in a new process."""
    options = {"resume": RunFolder(run).holds_a_run(), "device": "cpu", "quiet": True}
    process = start_server().Process(target=train, args=(dataset, recipe, run), kwargs=options)
    process.start()
    return process


def wait_for_a_new_checkpoint(run: Path, process: BaseProcess | Command | subprocess.Popen[bytes]) -> bool:
    """False where the training was at its end before there was one."""
    before = saved_checkpoints(run / "checkpoints")
    deadline = time.monotonic() + SECONDS
    while saved_checkpoints(run / "checkpoints") == before:
        ended = process.exitcode if isinstance(process, BaseProcess) else process.poll()
        if ended == 0:
            return False
        assert ended is None and time.monotonic() < deadline
        time.sleep(0.005)
    return True


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def test_killed_between_a_checkpoint_and_conv1s_weights(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of epoch 1 is there, its weights for the report's filmstrip are half written."""
    recipe, run = load_recipe("2013", [*SETTINGS, "epochs=2"]), RunFolder(tmp_path / "run")

    def killed(folder: RunFolder, epoch: int, conv1: Floats) -> None:
        record_conv1(folder, epoch, conv1)
        if epoch == 1:
            file = folder.conv1 / "epoch-000001.npy"
            file.replace(atomic.partial_name(file))
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(illustrator, "record_conv1", killed)
        train(tiny_dataset, recipe, run.path, device="cpu", quiet=True)
    assert sorted(conv1_history(run)) == [0]
    train(tiny_dataset, recipe, run.path, resume=True, device="cpu", quiet=True)
    history = conv1_history(run)
    assert sorted(history) == [0, 1, 2] and not (history[0] == history[1]).all()
    assert not list(run.path.rglob("*.partial"))


def test_killed_twenty_times(tiny_dataset: Dataset, tmp_path: Path) -> None:
    recipe, chance = load_recipe("2013", [*SETTINGS, "epochs=10"]), random.Random(0)
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    train(tiny_dataset, recipe, unbroken, device="cpu", quiet=True)
    kills = 0
    for number in range(20):  # on a fast machine the training is at its end after fewer
        process = start(tiny_dataset, recipe, run)
        # While it works; every second time at any moment, its start included.
        works = number % 2 == 0 or wait_for_a_new_checkpoint(run, process)
        time.sleep(chance.random() * (0.1 if number % 2 else 0.5) * works)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    last = start(tiny_dataset, recipe, run)
    last.join(SECONDS)
    assert last.exitcode == 0
    assert_same_state(run, unbroken)
    assert not list(run.rglob("*.partial"))


def test_two_processes_killed_five_times(tiny_shards: Path, tmp_path: Path) -> None:
    """The command is killed, or one of the processes that it started: the one that writes, and the other."""
    unbroken, run, chance = tmp_path / "unbroken", tmp_path / "run", random.Random(1)
    options = ("--processes", "2", "--parallel", "towers", "--quiet")
    run_command(arguments(tiny_shards, unbroken, "epochs=10", options=options), tmp_path, check=True)
    resume: tuple[str, ...] = ()
    for kill in range(5):
        while RunFolder(run).is_running():  # its processes end when they notice that the command was killed
            time.sleep(0.01)
        with Command(arguments(tiny_shards, run, "epochs=10", options=(*options, *resume)), tmp_path) as process:
            assert wait_for_a_new_checkpoint(run, process)
            time.sleep(chance.random() * 0.1)
            if kill < 3:
                process.kill()
            else:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                assert len(children) == 2
                os.kill(int(children[kill - 3]), signal.SIGKILL)
            _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == (-signal.SIGKILL if kill < 3 else 1)
        assert kill < 3 or re.search(r"To resume from the last checkpoint:\n  .*--parallel towers\n", err)
        resume = ("--resume",)
    run_command(arguments(tiny_shards, run, "epochs=10", options=(*options, *resume)), tmp_path, check=True)
    assert_same_state(run, unbroken)


def test_ctrl_c_saves_and_says_last_how_to_resume(tiny_shards: Path, tmp_path: Path) -> None:
    """Of two processes, twice as from `timeout -s INT`; a warning of multiprocessing's was the last line once."""
    run = tmp_path / "run"
    command = [*PROGRAM, *arguments(tiny_shards, run, "epochs=400", options=("--processes", "2"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert wait_for_a_new_checkpoint(run, process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGINT
    *_, stopped, command_to_copy = err.splitlines()
    assert stopped.startswith(b"alexnet-fast: stopped by SIGINT") and stopped.endswith(b"is saved. To resume:")
    assert command_to_copy.startswith(b"  alexnet-fast train ") and command_to_copy.endswith(b" --processes 2")
    assert b"Traceback" not in err


def stopped_in_the_third_step() -> None:
    """In the command's process before it starts: each process that it forks gets SIGTERM in its third step."""
    real = TrainingStep.__call__

    def signaled(train_step: TrainingStep, *arguments: Any, **options: Any) -> Any:
        if options["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(train_step, *arguments, **options)

    TrainingStep.__call__ = signaled  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize("parallel", ["data", "towers"])
def test_two_processes_on_a_cpu_stop_after_the_step_in_which_they_are_asked_to(
    parallel: str, tiny_shards: Path, tmp_path: Path
) -> None:
    """Eight steps, as on GPUs, can take longer than the ten seconds that `docker stop` waits."""
    run, options = tmp_path / "run", ("--processes", "2", "--parallel", parallel)
    words = arguments(tiny_shards, run, "epochs=2", "checkpoint_minutes=15", options=options)
    with Command(words, tmp_path / "screen", stopped_in_the_third_step) as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert [file.name for file in saved_checkpoints(run / "checkpoints")] == ["step-00000003.pt"]


THIRD_STEP_IS_LONG = """
import sys, time
from alexnet_fast.commands.main import main
from alexnet_fast.training.train_step import TrainingStep

def long(self, batch, *, step, seed, call=TrainingStep.__call__):
    if step == 2:
        print("third step", flush=True)
        time.sleep(30)
    return call(self, batch, step=step, seed=seed)

TrainingStep.__call__ = long
main(sys.argv[1:])
"""


def test_a_second_ctrl_c_stops_at_once_without_harm(tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", THIRD_STEP_IS_LONG, *arguments(tiny_shards, run, "epochs=2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"third step\n"
        process.send_signal(signal.SIGINT)
        time.sleep(1)  # two at once would be one
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"stopped at once. To resume from the last checkpoint in " in err and b":\n  alexnet-fast train " in err
    assert b"Traceback" not in err
    assert load_checkpoint(saved_checkpoints(run / "checkpoints")[-1]).step == 2


def test_the_best_is_the_one_with_the_least_error(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([0.9, 0.4, 0.6])
    monkeypatch.setattr(
        "alexnet_fast.training.evaluator.evaluate", lambda *_, **__: EvaluationResult(30, 1.0, next(errors), 0.1)
    )
    train(tiny_dataset, load_recipe("2013", [*SETTINGS, "epochs=3", "keep_checkpoints=100"]), tmp_path, device="cpu")
    best = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert (best.step, best.error, best.best_error) == (28, 0.4, 0.4)
    second = load_checkpoint(tmp_path / "checkpoints" / "step-00000028.pt")
    assert all(torch.equal(tensor, second.model[name]) for name, tensor in best.model.items())
    last = load_checkpoint(tmp_path / "checkpoints" / "step-00000042.pt")
    assert (last.error, last.best_error) == (0.6, 0.4)
    assert not torch.equal(last.model["fc8.weight"], best.model["fc8.weight"])
