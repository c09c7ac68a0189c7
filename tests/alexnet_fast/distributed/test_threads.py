"""How many threads compute on a CPU, and how they wait: what the user sets comes first, in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools import cores, openmp
from alexnet_fast.tools.errors import UsageError

UNSET = ("OMP_NUM_THREADS", cores.THREADS, openmp.POLICY, openmp.COUNT)


def info(**variables: str) -> str:
    """The line of `info` about threads, in a new process."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET} | variables
    command = [sys.executable, "-m", "alexnet_fast", "info"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return next(line.strip() for line in finished.stdout.splitlines() if "CPU threads" in line)


def test_info_says_what_holds() -> None:
    number = cores.usable_cores()
    assert info() == f"CPU threads: {number} (for each core one); they wait by GOMP_SPINCOUNT={openmp.SPINS}"
    assert info(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE") == (
        "CPU threads: 1 (as OMP_NUM_THREADS says); they wait by OMP_WAIT_POLICY=PASSIVE"
    )
    assert info(OMP_NUM_THREADS="1", ALEXNET_FAST_THREADS="5").startswith("CPU threads: 5 (as asked)")


def test_what_is_chosen_holds_for_the_loader_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv(cores.THREADS, "")
    assert cores.num_cores() == cores.usable_cores()
    cores.choose_threads(7)
    assert cores.num_cores() == 7
    assert LoaderOptions().settings(torch.device("cpu")).num_threads == 7
    assert LoaderOptions(num_threads=3).settings(torch.device("cpu")).num_threads == 3
    monkeypatch.setenv(cores.THREADS, "many")
    with pytest.raises(UsageError, match="ALEXNET_FAST_THREADS is 'many'"):
        cores.num_cores()


@pytest.mark.parametrize("verb", ["train", "eval", "demo", "bench"])
def test_every_verb_that_computes_takes_threads(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from alexnet_fast.commands.main import group

    monkeypatch.setenv(cores.THREADS, "")
    arguments = [verb, "--threads", "3", *(["nothing"] if verb == "eval" else []), "--help"]
    assert CliRunner().invoke(group, arguments).exit_code == 0
    refused = CliRunner().invoke(group, [verb, "--threads", "0"])
    assert refused.exit_code == 2 and "--threads" in refused.output


def test_waiting_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not over the user's choice, and not after torch has read it."""
    for name in (openmp.POLICY, openmp.COUNT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    openmp.spin_briefly()
    assert openmp.COUNT not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv(openmp.POLICY, "ACTIVE")
    openmp.spin_briefly()
    assert openmp.COUNT not in os.environ
    monkeypatch.delenv(openmp.POLICY)
    openmp.spin_briefly()
    assert os.environ[openmp.COUNT] == openmp.SPINS
