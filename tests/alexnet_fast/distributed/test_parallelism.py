"""Which processes a run gets: what is chosen, and what is refused in a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from alexnet_fast.distributed.parallelism import choose_layout, num_parameters
from alexnet_fast.network.model import NETS
from alexnet_fast.tools.errors import UsageError

NET = NETS["167"]
RENDEZVOUS = (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """machine(4): as if this machine had 4 GPUs of one kind."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def pretend(gpus: int, kinds: tuple[str, ...] = (), nccl: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: kinds[index] if kinds else "H200")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: nccl)

    pretend(0)
    return pretend


@pytest.mark.parametrize(
    ("gpus", "batch_size", "options", "num", "split"),
    [
        (0, 128, {}, 1, False),
        (0, 128, {"processes": 2}, 2, True),
        (0, 128, {"processes": 4, "parallel": "data"}, 4, False),
        (1, 128, {}, 1, False),
        (1, 128, {"device": "cpu", "processes": 2}, 2, True),
        (2, 128, {}, 2, True),
        (2, 2048, {}, 2, False),
        (2, 2048, {"parallel": "towers"}, 2, True),
        (2, 128, {"device": "cuda:1"}, 1, False),
        (3, 128, {}, 2, True),
        (3, 129, {}, 3, False),
        (8, 128, {"gpus": 4}, 4, True),
    ],
)
def test_choices(machine: Any, gpus: int, batch_size: int, options: dict[str, Any], num: int, split: bool) -> None:
    machine(gpus)
    layout = choose_layout(NET, batch_size, **options)
    assert (layout.num_processes, layout.split) == (num, split)
    assert "\n" not in layout.reason


def test_the_only_gpu_has_its_number(machine: Any) -> None:
    machine(2)
    assert choose_layout(NET, 128, device="cuda:1").device == torch.device("cuda", 1)
    assert choose_layout(NET, 128, gpus=1).device == torch.device("cuda", 0)


def test_auto_says_what_it_compared(machine: Any) -> None:
    machine(2)
    # Two replicas send each other's gradients once: half of 61 M × 2 bytes each way, twice.
    assert num_parameters(NET) == 60_965_224
    reason = choose_layout(NET, 128).reason
    assert reason == (
        "one replica of two towers on 2 GPUs: at batch 128 each sends 35 MB a step as towers and 122 MB as replicas"
    )
    assert choose_layout(replace(NET, num_towers=1), 128).reason.startswith("2 replicas, each with both towers")


@pytest.mark.parametrize(
    ("gpus", "batch_size", "options", "words"),
    [
        (4, 128, {"gpus": 3}, "cannot be shared by 3 processes"),
        (4, 128, {"gpus": 3, "parallel": "towers"}, "3 processes do not pair up.*choose 2 or 4"),
        (2, 128, {"gpus": 4}, "this machine has 2 GPUs"),
        (0, 128, {"gpus": 2}, "--gpus 2: no GPU can be used.*Leave out --gpus"),
        (2, 127, {"gpus": 2}, "batch_size=126 or 128"),
        (0, 128, {"processes": 1, "parallel": "towers"}, "--processes 2"),
        (0, 128, {"processes": 0}, "at least 1"),
        (2, 128, {"gpus": 0}, "at least 1"),
        (2, 128, {"gpus": 2, "device": "cpu"}, "contradict"),
        (2, 128, {"gpus": 2, "processes": 2}, "contradict"),
        (2, 128, {"gpus": 2, "device": "cuda:1"}, "cuda:1 is one GPU"),
        (2, 128, {"processes": 2}, "add --device cpu"),
        (2, 128, {"parallel": "both"}, "choose auto, towers, data"),
    ],
)
def test_refusals(machine: Any, gpus: int, batch_size: int, options: dict[str, Any], words: str) -> None:
    machine(gpus)
    with pytest.raises(UsageError, match=words):
        choose_layout(NET, batch_size, **options)


def test_one_tower_cannot_be_split(machine: Any) -> None:
    machine(2)
    with pytest.raises(UsageError, match="this network has one tower; or give --parallel data"):
        choose_layout(NETS["145-half"], 128, parallel="towers")


def test_towers_need_gpus_of_one_kind(machine: Any) -> None:
    machine(2, kinds=("H200", "A100"))
    with pytest.raises(UsageError, match=r"on a H200 and a A100.*--parallel data"):
        choose_layout(NET, 128, parallel="towers")
    assert not choose_layout(NET, 128, parallel="data").split
    layout = choose_layout(NET, 128)  # nobody asked for towers: then not, and it is said why
    assert not layout.split
    assert "on a H200 and a A100" in layout.reason
    machine(4, kinds=("H200", "H200", "A100", "A100"))
    assert choose_layout(NET, 128).split


def test_idle_gpus_are_named(machine: Any) -> None:
    machine(6)
    assert choose_layout(NET, 128).reason.endswith("; 2 GPUs stay idle, batch 128 cannot be shared by all")
    assert "idle" not in choose_layout(NET, 126).reason


def test_missing_nccl_is_named(machine: Any) -> None:
    machine(2, nccl=False)
    with pytest.raises(UsageError, match="without NCCL"):
        choose_layout(NET, 128)


def test_torchrun_decides_the_number(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "1"), ("LOCAL_RANK", "1"), *RENDEZVOUS):
        monkeypatch.setenv(name, value)
    layout = choose_layout(NET, 128)
    assert (layout.num_processes, layout.split, layout.started) == (4, True, True)
    with pytest.raises(UsageError, match="torchrun already started 4 processes: omit --processes"):
        choose_layout(NET, 128, processes=2)


def test_a_replicas_towers_share_a_machine(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WORLD_SIZE", "6"),
        ("RANK", "1"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "3"),
        *RENDEZVOUS,
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="3 processes on a machine put a replica's towers on two machines"):
        choose_layout(NET, 126, parallel="towers")
    assert not choose_layout(NET, 126).split
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_layout(NET, 126).split
