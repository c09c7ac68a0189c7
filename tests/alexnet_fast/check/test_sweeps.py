"""The lines that measure on a GPU, on a CPU with small networks: they run, keep to their time, and fail alone."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.check import gpu_speed, gpu_sweeps, suite
from alexnet_fast.check.gpu_sweeps import compare_strategies, rates_within, shown, standard_error
from alexnet_fast.check.runner import CheckFailedError, Place, line_of
from alexnet_fast.network.model import NETS, small
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.convolution_choice import GroupedLayer

CPU = torch.device("cpu")
LAYER = GroupedLayer(4, 5, (4, 2, 3, 3), 1)
SMALL = {name: small(net, divisor=16, image_size=224, num_classes=1001) for name, net in NETS.items()}
WANTED = {
    "speed: convolutions": r".* at batch 2: conv2 \w+: grouped \d+\.\d+ ms \(.+\), dense.*; conv4.*; conv5.*",
    "speed: networks": r"img/s at batch 2: net 167 7, net 145 7, without norms 7, net 167, deterministic 7",
    "speed: loader settings": r"img/s at batch 2: 1 threads 7, 2 threads 7, prefetch 2 7, 8 decoded together 7",
    "speed: decoder options": r"img/s decoded, 59 together: as in training 7, threads not .* 7, plain upsampling 7",
    "evaluation memory": r"3\.0 GiB are free at the least while ten views are .* of batch 2, 1\.0 less than before",
}


@pytest.fixture
def place(tiny_dataset: Dataset, tmp_path: Path) -> Place:
    return Place(tmp_path, tiny_dataset.folder)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether reproducible kernels were asked for in each measurement, each of which makes one call."""
    deterministic: list[bool] = []

    def rate_of(work: Callable[[], object], images: int, device: torch.device, seconds: float = 2.0) -> float:
        work()
        deterministic.append(torch.are_deterministic_algorithms_enabled())
        return 7.0

    free = iter([4 * 2**30, *[3 * 2**30] * 1000])
    for module in (gpu_speed, gpu_sweeps):
        monkeypatch.setattr(module, "rate_of", rate_of)
    for name, value in {
        "gpu": lambda: CPU,
        "NETS": SMALL,
        "BATCH": 2,
        "PREFETCH": (2,),
        "DECODE_BATCHES": (8,),
    }.items():
        monkeypatch.setattr(gpu_sweeps, name, value)
    monkeypatch.setattr(gpu_sweeps, "num_cores", lambda: 1)
    monkeypatch.setattr(gpu_sweeps, "EVALUATED", 1)
    monkeypatch.setattr(gpu_sweeps, "SWEEP_BUDGET", 1e6)  # of a busy machine
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free), 2**40))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return deterministic


@pytest.mark.parametrize("check", gpu_sweeps.SWEEPS, ids=lambda check: check.name)
def test_every_line_runs(check: Any, place: Place, on_a_cpu: list[bool]) -> None:
    line = line_of(check, place)
    assert line.outcome == "pass" and re.fullmatch(WANTED[check.name], line.shown), line.shown
    assert on_a_cpu == ([False, False, False, True] if check.name == "speed: networks" else [False] * len(on_a_cpu))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_line_that_cannot_be_measured_fails_and_stops_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sweeps, "gpu", lambda: CPU)
    monkeypatch.setattr(gpu_sweeps, "time_strategies", lambda *arguments: {})
    (check,) = (check for check in gpu_sweeps.SWEEPS if check.name == "speed: convolutions")
    line = line_of(check, place)
    assert (line.outcome, line.shown) == ("fail", "conv2 could be computed in none of its forms") and line.remedy
    monkeypatch.setattr(gpu_sweeps, "EvaluationLoader", lambda *arguments, **options: pytest.fail("not reached"))

    def no_memory(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_sweeps, "make_step", no_memory)
    for name in ("evaluation memory", "speed: networks"):
        (check,) = (check for check in gpu_sweeps.SWEEPS if check.name == name)
        line = line_of(check, place)
        assert line.outcome == "fail" and line.shown.startswith("OutOfMemoryError: CUDA out of memory")


def test_slow_kernels_of_the_grouped_form_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sweeps, "time_strategies", lambda *arguments: {"grouped": 2.0, "split": 1.0})
    names = iter([["cudnn::genericTranspose<half>", "sm90_xmma"], []])
    monkeypatch.setattr(gpu_sweeps, "kernel_names", lambda work, device: next(names))
    found = compare_strategies({"conv2": LAYER}, 1, CPU, torch.float32)
    assert found == (
        "conv2 split: grouped 2.00 ms (cudnn::genericTranspose<half>), split 1.00 ms (kernels unknown), "
        "slow: genericTranspose"
    )


def test_kernels_are_named_longest_first() -> None:
    big, little = torch.ones(400, 400), torch.ones(2, 2)

    def work() -> None:
        little.exp()
        big @ big @ big

    names = gpu_sweeps.kernel_names(work, CPU)
    assert "aten::exp" in names and names.index("aten::mm") < names.index("aten::exp")


def test_a_sweep_ends_with_its_budget_and_names_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def measure() -> float:
        now[0] += 4.0
        return 1000.0

    settings = [(name, measure) for name in ("one", "two", "three", "four")]
    assert rates_within(settings, 7.0) == ({"one": 1000.0, "two": 1000.0}, ["three", "four"])
    assert shown(*rates_within(settings, 0.0)) == "one 1,000; no time for two, three, four"


def test_warnings_of_affinity_are_counted(place: Place, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library writes them past Python."""
    monkeypatch.setattr(gpu_sweeps, "DECODERS", {"tied": {}, "free": {"affine": False}})

    def rate(dataset: Dataset, device: torch.device, batch_size: int, options: dict[str, Any]) -> float:
        if not options:
            os.write(2, b"Warning: CPU affinity mask\nsomething else\nno affinity\n")
        return 10.0

    monkeypatch.setattr(gpu_sweeps, "decode_rate", rate)
    found = gpu_sweeps.compare_decoders(tiny_dataset, CPU, 4)
    assert found == "img/s decoded, 4 together: tied 10 (2 warnings of affinity), free 10"
    with pytest.raises(ZeroDivisionError), standard_error() as lines:
        os.write(2, b"before\n")
        raise ZeroDivisionError
    assert lines == ["before"]


def test_with_a_gpu_there_are_these_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    names = [check.name for check in suite.checks_for(quick=False)]
    assert set(WANTED) <= set(names) and len(names) == len(set(names))
    assert not [name for name in (check.name for check in suite.checks_for(quick=True)) if name.startswith("speed")]
    # A budget ends a sweep long before its line counts as hanging.
    swept = [check for check in gpu_sweeps.SWEEPS if check.name in ("speed: networks", "speed: loader settings")]
    assert len(swept) == 2 and all(check.seconds >= 1.5 * gpu_sweeps.SWEEP_BUDGET for check in swept)


def test_a_layer_that_no_form_can_compute_fails() -> None:
    with pytest.raises(CheckFailedError, match="conv9 could be computed in none of its forms"):
        compare_strategies({"conv9": GroupedLayer(4, 1, (4, 2, 3, 3), 0)}, 1, CPU, torch.float32)
