"""What a run costs: speed without the time of checkpoints, sums over sessions, energy by a stand-in for NVML."""

from __future__ import annotations

import sys
import types
from itertools import pairwise
from typing import Any

import pytest
import torch

from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.runs.totals import Totals
from alexnet_fast.training.energy import EnergyCounter
from alexnet_fast.training.metrics import Meter
from alexnet_fast.training.train_step import StepResult

STARTED = "2026-01-01T00:00:00+00:00"


class Clock:
    """In place of `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_speed_is_images_over_the_time_of_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("alexnet_fast.training.metrics.time", clock)
    meter = Meter(Mesh(), torch.device("cpu"), Totals(STARTED, images=1000, training_seconds=10, waited_seconds=4))
    step = StepResult(torch.tensor(2.0), torch.tensor(8), 32)
    meter.start()
    for _ in range(3):
        with meter.waiting():
            clock.now += 0.5
        clock.now += 1.5
        meter.add(step)
    reading = meter.read()
    assert (reading.loss, reading.error, reading.images_per_s, reading.data_wait) == (2.0, 0.25, 16.0, 0.25)
    clock.now += 1000  # a checkpoint
    meter.start()
    meter.add(step)
    clock.now += 4
    assert meter.read().images_per_s == 8.0
    assert (meter.totals.images, meter.totals.training_seconds) == (1000 + 4 * 32, 20.0)
    assert meter.totals.images_per_s == pytest.approx(1128 / 20) and meter.totals.data_wait == 5.5 / 20


def test_time_cannot_be_forgotten_without_its_images() -> None:
    meter = Meter(Mesh(), torch.device("cpu"))
    meter.add(StepResult(torch.tensor(2.0), torch.tensor(8), 32))
    with pytest.raises(AssertionError, match="read the metrics first"):
        meter.start()


def test_readings_come_often_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("alexnet_fast.training.metrics.time", clock)
    meter = Meter(Mesh(), torch.device("cpu"))
    read_after = []
    for step in range(1, 201):  # of a tenth of a second each
        meter.add(StepResult(torch.tensor(2.0), torch.tensor(8), 32))
        clock.now = 100 + step / 10
        if meter.is_due:
            meter.read()
            read_after.append(step)
    assert read_after[:5] == [3, 8, 18, 38, 78]
    assert all(after - before == 50 for before, after in pairwise(read_after[5:]))


def test_sessions_add_up() -> None:
    first = Totals(STARTED).with_session(10.0, [0.25, 0.5])
    assert (first.seconds, first.energy_kwh) == (10.0, 0.75)
    assert first.with_session(5.0, [0.25, 0.0]).energy_kwh == 1.0
    assert first.with_session(5.0, [0.25, None]).energy_kwh is None
    assert Totals(STARTED).with_session(1.0, [None]).with_session(1.0, [0.5]).energy_kwh is None
    assert Totals(STARTED).images_per_s is None and Totals(STARTED).data_wait is None


class NvmlError(Exception):
    """NVML's own kind."""


class FakeNvml(types.ModuleType):
    """As much of pynvml as is asked; one GPU."""

    NVMLError = NvmlError

    def __init__(self, *, counts: bool = True, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.counts, self.driver, self.millijoules = counts, driver, 5_000_000_000

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NvmlError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-12-34"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "handle"
        if not self.counts:
            raise NvmlError("not supported")
        return self.millijoules


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    properties: Any = types.SimpleNamespace(uuid="12-34")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    return torch.device("cuda", 3)


def test_energy_counts_from_where_the_counter_was_made(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    counter = EnergyCounter(gpu)
    nvml.millijoules += 1_800_000_000  # 1.8 MJ
    assert counter.kwh() == pytest.approx(0.5)


@pytest.mark.parametrize("nvml", [None, FakeNvml(counts=False), FakeNvml(driver=False)])
def test_energy_is_none_where_nothing_measures_it(
    nvml: Any, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert EnergyCounter(gpu).kwh() is None
    assert EnergyCounter(torch.device("cpu")).kwh() is None
