"""How benchmarks use a GPU: the one that was asked for, and waiting for torch's stream alone; by stand-ins."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alexnet_fast.bench import interleaved, tune
from alexnet_fast.bench import model as benchmark_model
from alexnet_fast.bench.measurement import Measurement, finish
from alexnet_fast.config.precision import Precision

ROOT = Path(__file__).resolve().parents[3]
CPU, SECOND = torch.device("cpu"), torch.device("cuda", 1)
FP32 = Precision("fp32", torch.float32, "")


@pytest.mark.parametrize("device", [SECOND, CPU])
def test_a_process_that_measures_sets_its_device_first(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Triton would launch on GPU 0, with pointers of another one."""
    events: list[Any] = []

    class Pool:
        def __init__(self, workers: int, context: Any, initializer: Any, arguments: tuple[Any, ...]) -> None:
            assert workers == 1
            self.initializer, self.arguments = initializer, arguments

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def submit(self, work: Any, *arguments: Any) -> Any:
            self.initializer(*self.arguments)
            return SimpleNamespace(result=lambda: work(*arguments))

    monkeypatch.setattr(benchmark_model, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(benchmark_model, "start_gpu", events.append)

    def measure(*arguments: Any) -> list[Measurement]:
        events.append(arguments)
        return []

    assert benchmark_model.in_own_process(measure, device, 4, FP32) == []
    assert events == [*([SECOND] if device is SECOND else []), (device, 4, FP32)]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was waited for; the whole device must not be: DALI decodes ahead on streams of its own."""
    found: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: pytest.fail("the whole device was waited for"))
    stream = SimpleNamespace(synchronize=lambda: found.append(asked[-1]))
    asked: list[Any] = []

    def current_stream(device: Any) -> Any:
        asked.append(device)
        return stream

    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    return found


def test_torchs_stream_alone_is_waited_for(waited: list[Any]) -> None:
    finish(CPU)
    assert waited == []
    finish(SECOND)
    assert waited == [SECOND]


def test_a_loaders_turn_waits_for_torchs_stream_at_both_ends(waited: list[Any]) -> None:
    """The hand-over of a batch is ordered on the device: the host's clock alone would not see it."""
    given: list[int] = []

    def stream() -> Iterator[object]:
        for number in range(100):
            given.append(number)
            yield number

    interleaved.stream_turn(stream, SECOND, 2, 5)
    assert waited == [SECOND, SECOND] and len(given) == 2 + 5


def test_nothing_of_ours_waits_for_the_whole_device() -> None:
    for folder in ("alexnet_fast", "pipelines", "tools"):
        for file in (ROOT / folder).rglob("*.py"):
            names = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute))
            for name in names:
                assert ast.unparse(name) != "torch.cuda.synchronize", f"{file}:{name.lineno}"


@pytest.mark.parametrize("answer", ["yes", "NVMLError_NotSupported", "NVMLError_FunctionNotFound", "no package"])
def test_nvml_knows_whether_there_are_jpeg_engines(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def utilization(handle: str) -> tuple[int, int]:
        asked.append(handle)
        if answer != "yes":
            raise type(answer, (Exception,), {})
        return 0, 1000

    library = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: uuid, nvmlDeviceGetJpgUtilization=utilization
    )
    monkeypatch.setitem(sys.modules, "pynvml", None if answer == "no package" else library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    expected = {"yes": True, "NVMLError_NotSupported": False}
    assert tune.has_jpeg_engines(SECOND) is expected.get(answer)
    assert asked == ([] if answer == "no package" else ["GPU-12-34"])
    assert tune.has_jpeg_engines(CPU) is False
