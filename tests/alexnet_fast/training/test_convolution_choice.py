"""The choice of each grouped convolution's strategy: by which times, on which devices, alike on all ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.network import convolution
from alexnet_fast.network.convolution import Strategy
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training import convolution_choice as choice
from alexnet_fast.training.convolution_choice import (
    GroupedLayer,
    Times,
    choose_convolutions,
    fastest,
    grouped_layers,
    slowest_of,
    time_strategies,
)
from alexnet_fast.training.memory import NobodyExchange
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.run import train
from alexnet_fast.training.train_step import TrainingStep

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FP32 = Precision("fp32", torch.float32, "")


def make(net: str = "167", towers: tuple[int, ...] = (0, 1)) -> TrainingStep:
    model = AlexNet(small(NETS[net]), exchange=None if towers == (0, 1) else NobodyExchange(towers))
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=FP32)


@pytest.mark.parametrize("net", NETS)
def test_the_shapes_that_are_timed_are_those_of_the_network(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a forward pass, layer by layer."""
    architecture = small(NETS[net], image_size=131)
    seen: list[GroupedLayer] = []

    def noted(
        x: torch.Tensor, weight: torch.Tensor, bias: Any, padding: int, groups: int, strategy: Strategy
    ) -> torch.Tensor:
        if groups > 1:
            seen.append(GroupedLayer(x.shape[1], x.shape[2], tuple(weight.shape), padding))
        return right(x, weight, bias, padding, groups, strategy)

    right = convolution.convolve
    monkeypatch.setattr(convolution, "convolve", noted)
    with torch.device("meta"):
        AlexNet(architecture).eval()(torch.empty(1, 3, 131, 131))
    layers = grouped_layers(architecture)
    assert list(layers.values()) == seen
    expected = ["conv2", "conv3", "conv4", "conv5"] if net == "150" else ["conv2", "conv4", "conv5"]
    assert list(layers) == ([] if net == "145-half" else expected)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"grouped": 1.0, "dense": 0.5, "split": 0.7}, "dense"),
        ({"grouped": 1.0, "dense": 1.5, "split": 0.9}, "split"),
        ({"grouped": 1.0, "dense": 0.96, "split": 0.97}, "grouped"),  # noise
        ({"grouped": 1.0, "split": 0.5}, "split"),
        ({"dense": 2.0, "split": 3.0}, "dense"),  # cuDNN has no grouped kernel
        ({}, "grouped"),
    ],
)
def test_the_fastest_that_is_faster_by_more_than_noise(times: Times, expected: Strategy) -> None:
    assert fastest(times) == expected


def test_ranks_choose_alike_by_the_one_that_takes_longest() -> None:
    one: Times = {"grouped": 2.0, "dense": 1.0, "split": 1.5}
    other: Times = {"grouped": 2.0, "dense": 5.0, "split": 1.6}
    assert slowest_of([one, other]) == {"grouped": 2.0, "dense": 5.0, "split": 1.6}
    assert slowest_of([one, {"grouped": 1.0}]) == {"grouped": 2.0}  # the others have no memory on one rank


def test_a_gpu_takes_what_was_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[GroupedLayer, int, torch.device, torch.dtype]] = []

    def time(layer: GroupedLayer, num_images: int, device: torch.device, dtype: torch.dtype) -> Times:
        timed.append((layer, num_images, device, dtype))
        return [
            {"grouped": 2.0, "dense": 1.25, "split": 3.0},
            {"grouped": 1.0, "dense": 2.0, "split": 2.0},
            {"grouped": 1.0, "dense": 2.0},
        ][len(timed) - 1]  # type: ignore[return-value]

    freed: list[bool] = []
    gathered: list[Any] = []
    monkeypatch.setattr(choice, "time_strategies", time)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))
    # Another rank finds conv4 faster when split.
    other = {"grouped": 9.0, "dense": 2.0, "split": 2.0}

    def gather(mesh: Mesh, own: dict[str, Times]) -> list[Any]:
        gathered.append(own)
        return [own, {**own, "conv4": other}]

    monkeypatch.setattr(choice, "all_gather_object", gather)
    step = make()
    step.device = CUDA
    step.mesh = Mesh(rank=0, world_size=2)
    note = choose_convolutions(step, 16)
    assert step.convolutions == {"conv2": "dense", "conv4": "dense", "conv5": "grouped"}
    assert note == (
        "Convolutions in groups, the fastest by timing (ms forward and back): "
        "conv2 dense (grouped 2.00, dense 1.25, split 3.00); conv4 dense (grouped 9.00, dense 2.00, split 2.00); "
        "conv5 grouped (grouped 1.00, dense 2.00)"
    )
    assert [layer for layer, *_ in timed] == list(grouped_layers(step.model.architecture).values())
    assert {tuple(others) for _, *others in timed} == {(16, CUDA, torch.float32)} and freed and len(gathered) == 1
    # The step computes with them, and computes the same.
    step.device, step.mesh = CPU, Mesh()
    images = torch.randn(4, 3, 67, 67, generator=torch.Generator().manual_seed(0)) * 60
    batch = Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(4))
    seen: list[Strategy] = []
    right = convolution.convolve

    def noted(*arguments: Any) -> torch.Tensor:
        seen.append(arguments[-1])
        return right(*arguments)

    monkeypatch.setattr(convolution, "convolve", noted)
    found = step(batch, step=0, seed=0)
    assert seen == ["grouped", "dense", "grouped", "dense", "grouped"]  # with conv1 and conv3
    plain = make()
    assert float(found.loss) == pytest.approx(float(plain(batch, step=0, seed=0).loss), rel=1e-5)
    for name, tensor in plain.parameters.items():
        torch.testing.assert_close(step.parameters[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["cpu", "deterministic", "one tower here"])
def test_where_nothing_is_chosen_nothing_is_timed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "time_strategies", lambda *arguments: pytest.fail("it was timed"))
    step = make(towers=(0,) if case == "one tower here" else (0, 1))
    step.device = CPU if case == "cpu" else CUDA
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: case == "deterministic")
    assert choose_convolutions(step, 16) is None and step.convolutions == {}


def test_timing_runs_every_strategy_and_passes_over_one_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN may lack a kernel, or memory for it."""
    layer = GroupedLayer(6, 7, (4, 3, 3, 3), 1)
    times = time_strategies(layer, 2, CPU, torch.float32, rounds=1)
    assert list(times) == ["grouped", "dense", "split"] and all(0 < ms < 1e5 for ms in times.values())

    def without_dense(*arguments: Any) -> torch.Tensor:
        if arguments[-1] == "dense":
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return convolution.convolve(*arguments)

    monkeypatch.setattr(choice, "convolve", without_dense)
    assert list(time_strategies(layer, 2, CPU, torch.float32, rounds=1)) == ["grouped", "split"]


def test_too_many_images_are_left_to_the_step_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(choice, "calls_of", no_memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    step = make()
    step.device = CUDA
    note = choose_convolutions(step, 100_000)
    assert set(step.convolutions.values()) == {"grouped"} and note is not None and "conv5 grouped (not timed)" in note


def test_the_shortest_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([4.0, 2.0, 6.0, 3.0, 8.0, 1.0])
    clock = type("Clock", (), {"lead": lambda self: None, "mark": lambda self: None})
    clock.between = lambda self: [next(seconds)]  # type: ignore[attr-defined]
    monkeypatch.setattr(choice, "clock_of", lambda device: clock())
    monkeypatch.setattr(choice, "CALLS", 2)
    times = time_strategies(GroupedLayer(2, 3, (2, 1, 3, 3), 1), 1, CPU, torch.float32, rounds=2)
    assert times == {"grouped": 1500.0, "dense": 1000.0, "split": 500.0}


def test_every_dtype_can_be_timed() -> None:
    layer = replace(grouped_layers(small(NETS["167"]))["conv2"], side=5)
    for dtype in (torch.bfloat16, torch.float16):
        assert len(time_strategies(layer, 1, CPU, dtype, rounds=1)) == 3


def test_a_run_says_what_was_chosen(tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(step: TrainingStep, num_images: int) -> str:
        assert num_images == 4 and step.captured is None
        step.convolutions = {"conv2": "split", "conv4": "dense"}
        return "conv2 split, conv4 dense"

    monkeypatch.setattr("alexnet_fast.training.session.choose_convolutions", chosen)
    settings = ["width_divisor=16", "batch_size=4", "lr_base_batch_size=4", "precision=fp32", "epochs=0.1"]
    result = train(tiny_dataset, load_recipe("2013", [*settings, "final_views=1"]), tmp_path / "run", device="cpu",
                   quiet=True)  # fmt: skip
    assert result["convolutions"] == {"conv2": "split", "conv4": "dense"}
    events = [line["event"] for line in RunFolder(tmp_path / "run").read_metrics() if line["kind"] == "event"]
    assert events == ["conv2 split, conv4 dense"]
