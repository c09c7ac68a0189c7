"""Layers' times, and the projection to two GPUs: they measure what they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alexnet_fast.bench import layers
from alexnet_fast.bench import model as benchmark_model
from alexnet_fast.bench import tower as benchmark_tower
from alexnet_fast.bench.measurement import Measurement, show, table
from alexnet_fast.bench.model import Measure
from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.parallelism import bytes_as_towers
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import Batch

CPU = torch.device("cpu")
FP32 = Precision("fp32", torch.float32, "")
NET = small(NETS["167"], image_size=224, num_classes=1001)


def test_a_tower_has_its_rows_and_trains() -> None:
    step = benchmark_tower.make_tower_step(NET, CPU, FP32)
    shapes = {name: tuple(parameter.shape) for name, parameter in step.parameters.items()}
    assert shapes["conv3.weight"] == (24, 32, 3, 3)
    assert shapes["fc8.bias"] == (501,)
    before = step.parameters["conv1.weight"].detach().clone()
    step(benchmark_model.batch_of(2, CPU, torch.float32), step=0, seed=0)
    assert not torch.equal(step.parameters["conv1.weight"], before)


def test_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_model, "SECONDS", 0.0)
    monkeypatch.setattr(benchmark_model, "REPETITIONS", 1)
    (row,) = benchmark_tower.measure_towers(NET, device=CPU, batch_sizes=[4], precision=FP32)
    sent = bytes_as_towers(NET, 4, 2, torch.float32)
    assert row.details["MB sent"] == pytest.approx(sent / 1e6)
    both = float(str(row.details["two, PCIe 5"]).split("/s")[0].replace(",", ""))
    assert both == pytest.approx(4 / (4 / row.rate + sent / 50e9), abs=1)


def test_the_parts_of_a_step_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part both ways, the loss, the update and the rest; none beats its limit, however slow the device seemed."""
    monkeypatch.setattr(layers, "ROUNDS", 2)
    monkeypatch.setattr(layers.DeviceLimits, "__init__", lambda self, device, dtype: None)
    rates = iter([1e3, 1e12, 1e3] * 2)
    monkeypatch.setattr(layers.DeviceLimits, "flops", lambda self: next(rates))
    monkeypatch.setattr(layers.DeviceLimits, "bandwidth", lambda self: 1e3)  # nothing is so slow
    *rows, rest, whole = layers.measure_layers(NET, device=CPU, batch_size=2, precision=FP32)
    names = ["conv1", "norm1+pool1", "conv2", "norm2+pool2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert sorted(row.name for row in rows) == sorted([*names, "loss", "update"])
    by_name = {row.name: row for row in rows}
    for row in rows:
        assert float(row.details["back ms"]) > 0
        assert (float(row.details["forward ms"]) > 0) == (row.name != "update")
        taken = float(row.details["forward ms"]) + float(row.details["back ms"])
        if row.name != "loss":
            assert (
                0 < float(row.details["limit ms"]) <= taken * 1.5 and int(str(row.details["of the limit"])[:-1]) <= 100
            )
    parts = sum(float(row.details[way]) for row in rows for way in ("forward ms", "back ms"))
    assert parts + float(rest.details["ms"]) == pytest.approx(float(whole.details["ms"]))
    assert (rest.name, whole.name) == ("everything else", "whole step")
    assert whole.rate == pytest.approx(2e3 / float(whole.details["ms"]))
    conv2, update = by_name["conv2"], by_name["update"]
    flop = 3 * 2 * 2 * 32 * 6 * 25 * 27**2  # forward and two products back; maps × seen × window × pixels
    assert float(conv2.details["TFLOP/s"]) * 1e12 * 2 / conv2.rate == pytest.approx(flop)
    parameters = sum(parameter.numel() for parameter in AlexNet(NET).parameters())
    assert float(update.details["GB/s"]) * 1e9 * 2 / update.rate == pytest.approx(20 * parameters)


class Ticks:
    """A clock whose marks are a second apart; notes what is called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def lead(self) -> None:
        self.called.append("lead")

    def mark(self) -> None:
        self.called.append("mark")

    def between(self) -> list[float]:
        self.called.append("between")
        return [1.0] * (self.called.count("mark") - 1)


def test_the_parts_of_a_step_are_timed_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU by events: the host queues the whole step, waits once, and each part is between two marks."""
    clocks: list[Ticks] = []

    def clock_of(device: torch.device) -> Ticks:
        clocks.append(Ticks())
        return clocks[-1]

    monkeypatch.setattr(layers, "clock_of", clock_of)
    step, rounds = benchmark_model.make_step(small(NETS["145"]), CPU, FP32), layers.Rounds()
    images = torch.zeros(2, 3, 67, 67).contiguous(memory_format=torch.channels_last)
    layers.time_parts(step, Batch(images, torch.zeros(2, dtype=torch.int64)), CPU, rounds)
    names = ["conv1", "norm1+pool1", "conv2", "norm2+pool2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert rounds.forward == {name: [1.0] for name in [*names, "loss"]}
    assert rounds.back == {name: [1.0] for name in [*names, "loss", "update"]}
    (clock,) = clocks
    assert clock.called[:2] == ["lead", "mark"] and clock.called[-1] == "between"
    assert set(clock.called[2:-1]) == {"mark"}
    assert layers.seconds_of(lambda: clocks[-1].called.append("work"), CPU) == 1.0
    assert clocks[-1].called == ["lead", "mark", "work", "mark", "between"]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_two_gpus_are_projected_from_captured_steps(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eager step's launches would hide what a split costs: both steps are captured, or on a CPU neither."""
    captured: list[int] = []
    for make in ("make_step", "make_tower_step"):
        step = SimpleNamespace(device=torch.device(device), dtype=torch.float32)
        step.capture = lambda num_images, dtype: captured.append(num_images)
        monkeypatch.setattr(benchmark_tower, make, lambda *arguments, step=step: step)
    monkeypatch.setattr(benchmark_tower, "batch_of", lambda *arguments: None)
    monkeypatch.setattr(benchmark_tower, "choose_convolutions", lambda step, num_images: None)
    monkeypatch.setattr(benchmark_tower, "time_rate", lambda *arguments: (100.0, 0.0))
    monkeypatch.setattr(benchmark_tower, "memory", lambda device: {})
    benchmark_tower.measure_towers(NET, device=torch.device(device), batch_sizes=[4, 8], precision=FP32)
    assert captured == ([4, 4, 8, 8] if device == "cuda" else [])


def test_a_device_has_limits() -> None:
    limits = layers.DeviceLimits.__new__(layers.DeviceLimits)
    limits.device = CPU
    limits.products = [(torch.ones(64, 32), torch.ones(32, 16))]
    limits.block, limits.other = torch.zeros(1000), torch.zeros(1000)
    assert 0 < limits.flops() < 1e15 and 0 < limits.bandwidth() < 1e15


def test_a_gpu_is_measured_with_reproducible_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, which alone is made deterministic."""
    asked: list[str] = []

    def measure(*arguments: object, **options: object) -> Measurement:
        return Measurement("forward or step", 80.0 if asked else 100.0, 0.0, {"batch size": 4})

    def in_own_process(work: Measure, *arguments: Any) -> list[Measurement]:
        asked.append("a process")
        return work(*arguments)

    monkeypatch.setattr(benchmark_model, "measure_forward", measure)
    monkeypatch.setattr(benchmark_model, "measure_step", measure)
    monkeypatch.setattr(benchmark_model, "in_own_process", in_own_process)
    monkeypatch.setattr(benchmark_model, "be_deterministic", lambda: asked.append("deterministic"))
    options = {"batch_sizes": [4], "precision": FP32, "baselines": False}
    rows = benchmark_model.measure_model(device=torch.device("cuda"), **options)  # type: ignore[arg-type]
    assert asked == ["a process", "deterministic"]
    assert [row.details["of net 167"] for row in rows if row.name.endswith("deterministic")] == ["0.80×"]
    rows = benchmark_model.measure_model(device=CPU, **options)  # type: ignore[arg-type]
    assert len(asked) == 2
    assert not any("deterministic" in row.name for row in rows)


@pytest.mark.parametrize("columns", [60, 80, 120, None])
def test_tables_fit_the_terminal(columns: int | None) -> None:
    details: dict[str, Any] = {"batch size": 1024, "precision": "bf16", "TFLOP/s": 123.4, "forward ms": 1.25}
    details |= {"back ms": 2.5, "of the limit": "87 %"}
    rows = [Measurement("training step, net 167", 123456.7, 0.02, details), Measurement("without norms", 1.0, 0.0, {})]
    lines = table(rows, columns).splitlines()
    assert columns is None or max(map(len, lines)) <= columns
    for key, value in details.items():
        assert any(key in line for line in lines) and any(show(value) in line for line in lines)
    assert len(lines) == 3 if columns is None or columns >= 120 else len(lines) > 3
    assert all(line.startswith(("training step, net 167", "without norms", " ")) or not line for line in lines)
