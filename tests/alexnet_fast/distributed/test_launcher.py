"""Processes start, agree, and end together: well, by an error, by a death, by a signal."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.distributed.launcher import LostProcessError, launch
from alexnet_fast.distributed.mesh import TIMEOUT
from alexnet_fast.distributed.parallelism import Layout
from alexnet_fast.tools.errors import UsageError, UserError

HERE = Path(__file__).parent
TWO = Layout(torch.device("cpu"), 2, True, "")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the processes' work, found by them too: they get this process's path."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("launch_work")


def test_one_process_works_in_place(work: Any) -> None:
    assert launch(Layout(torch.device("cpu"), 1, False, ""), work.add_ranks, 10) == (0, 1, 10, False)


@pytest.mark.parametrize(
    ("num", "split", "expected"),
    [
        (2, True, {"tower": [0, 1], "world": [0, 1]}),
        (4, True, {"replica": [0, 2], "tower": [0, 1], "world": [0, 1, 2, 3]}),
        (2, False, {"replica": [0, 1], "world": [0, 1]}),
    ],
)
def test_every_group_waits_as_long_as_declared(
    work: Any, num: int, split: bool, expected: dict[str, list[int]]
) -> None:
    found = launch(Layout(torch.device("cpu"), num, split, ""), work.group_timeouts)
    assert found == {name: (ranks, TIMEOUT.total_seconds()) for name, ranks in expected.items()}


def test_two_processes_agree_and_rank_0_answers(work: Any) -> None:
    assert launch(TWO, work.add_ranks, 10) == (0, 2, 21, True)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("user", UsageError, "^the batch is made of cheese$"),
        ("bug", UserError, r"process 1 of 2 \(tower 1 of replica 0\) failed(.|\n)*ZeroDivisionError: nobody"),
        ("death", LostProcessError, r"process 1 of 2 \(tower 1 of replica 0\) was killed by SIGKILL.*were ended\.$"),
    ],
)
def test_one_failure_ends_all(work: Any, how: str, error: type[UserError], words: str) -> None:
    start = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        launch(TWO, work.fail, how)
    assert type(caught.value) is error
    assert time.monotonic() - start < 60  # the peer's own patience would be five minutes


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[str]]:
    """Two launched processes that wait; their standard output stays open as long as any of them lives."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "launch_work.py"), "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert any("ready" in line for line in process.stdout)  # the gloo of torch 2.9 writes there too
    yield process
    process.kill()


def test_ctrl_c_ends_all(waiting: subprocess.Popen[str]) -> None:
    waiting.send_signal(signal.SIGINT)
    assert waiting.communicate(timeout=60)[0] == "interrupted\n"
    assert waiting.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_processes_still_start_is_one(number: signal.Signals) -> None:
    """They import torch for seconds: Ctrl-C was a traceback of each there, SIGTERM a lost process."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "launch_work.py"), "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:  # multiprocessing has one of its own
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.communicate(timeout=60) == ("interrupted\n", "")


def test_processes_end_with_the_one_that_started_them(waiting: subprocess.Popen[str]) -> None:
    waiting.kill()
    assert waiting.communicate(timeout=60)[0] == ""


def test_under_torchrun_each_takes_its_place() -> None:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(HERE / "launch_work.py"), "torchrun"]
    done = subprocess.run([*run, *script], capture_output=True, text=True, timeout=120, check=True)
    # Among lines of gloo's, as torch 2.9 writes them in pieces.
    assert sorted(re.findall(r"\d 2 \d+ (?:True|False)", done.stdout)) == ["0 2 21 True", "1 2 21 True"]
