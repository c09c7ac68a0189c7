"""Runs under torchrun that resume after a kill or a lost machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_fast.runs.checkpoint import saved_checkpoints
from tests.forked import run_command
from tests.saved_state import assert_same_state

SETTINGS = (
    "width_divisor=16",
    "batch_size=4",
    "lr_base_batch_size=4",
    "precision=fp32",
    "final_views=1",
    "shuffle_buffer=20",
    "epochs=3",
    "checkpoint_minutes=0.0001",
)


def arguments(shards: Path, run: Path, parallel: str, *options: str) -> list[str]:
    sets = [argument for setting in SETTINGS for argument in ("--set", setting)]
    return ["train", str(shards), *sets, "--out", str(run), "--device", "cpu", "--parallel", parallel, *options]


def start_agent(arguments: list[str], endpoint: str, *, num_agents: int, log: Path) -> subprocess.Popen[bytes]:
    """torchrun on one "machine" of two processes, with the options that the documentation gives for several."""
    agent = [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={num_agents}", "--nproc-per-node=2",
        "--rdzv-id=test", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1",
        "--max-restarts=3",
    ]  # fmt: skip
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    if num_agents > 1:
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with log.open("ab") as file:
        return subprocess.Popen(
            [*agent, "-m", "alexnet_fast", *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
        )


def wait_for_a_checkpoint(run: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not saved_checkpoints(run / "checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def end_with_its_workers(agent: subprocess.Popen[bytes]) -> None:
    """As when a machine loses its power."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if agent.poll() is None else []
    for pid in (agent.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    agent.wait()


@pytest.fixture
def agents() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Agents started by a test; none outlives it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for agent in started:
        if agent.poll() is None:
            end_with_its_workers(agent)


def test_torchrun_resumes_bit_for_bit_after_a_kill(
    tiny_shards: Path, tmp_path: Path, agents: list[subprocess.Popen[bytes]]
) -> None:
    broken, unbroken, log = tmp_path / "broken", tmp_path / "unbroken", tmp_path / "log"
    run_command(arguments(tiny_shards, unbroken, "data", "--processes", "2"), tmp_path, check=True)

    agents.append(start_agent(arguments(tiny_shards, broken, "data"), "localhost:0", num_agents=1, log=log))
    wait_for_a_checkpoint(broken, agents[0], log)
    os.kill(int((broken / ".lock").read_text().split()[0]), signal.SIGKILL)  # the main rank holds the folder
    assert agents[0].wait(timeout=250) == 0, log.read_text()
    assert "exitcode: -9" in log.read_text()
    assert_same_state(unbroken, broken)


def test_a_lost_machine_is_replaced_and_the_run_resumes_bit_for_bit(
    tiny_shards: Path, tmp_path: Path, agents: list[subprocess.Popen[bytes]]
) -> None:
    broken, unbroken, log = tmp_path / "broken", tmp_path / "unbroken", tmp_path / "log"
    run_command(arguments(tiny_shards, unbroken, "towers", "--processes", "4"), tmp_path, check=True)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    command = arguments(tiny_shards, broken, "towers")
    for _ in range(2):  # the first holds the rendezvous
        agents.append(start_agent(command, endpoint, num_agents=2, log=log))
        time.sleep(1)
    wait_for_a_checkpoint(broken, agents[0], log)
    end_with_its_workers(agents[1])
    agents.append(start_agent(command, endpoint, num_agents=2, log=log))
    assert [agents[0].wait(timeout=250), agents[2].wait(timeout=30)] == [0, 0], log.read_text()
    assert_same_state(unbroken, broken)
