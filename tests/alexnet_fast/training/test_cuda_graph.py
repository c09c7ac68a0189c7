"""What is captured of a step, when, and on which stream; by stand-ins for torch's graphs, so without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines import pipeline_run
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training import session
from alexnet_fast.training.cuda_graph import WARM_UP, CapturedStep
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.run import train
from alexnet_fast.training.train_step import TrainingStep


class Stream:
    def wait_stream(self, other: Stream) -> None:
        """Nothing to wait for."""


class Gpu:
    """The main stream and the one in use; how often a graph was replayed."""

    def __init__(self) -> None:
        self.main = self.current = Stream()
        self.made: list[Stream] = []
        self.captured_on: list[Stream] = []
        self.replays = 0

    def new_stream(self) -> Stream:
        self.made.append(Stream())
        return self.made[-1]

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.main

    @contextmanager
    def graph(self, graph: Any, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # other threads may use the GPU
        self.captured_on.append(stream)
        with self.on(stream):
            yield

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    graph = type("CUDAGraph", (), {"replay": staticmethod(gpu.replay)})
    for name, stand_in in (
        ("Stream", gpu.new_stream),
        ("current_stream", lambda: gpu.current),
        ("stream", gpu.on),
        ("graph", gpu.graph),
        ("CUDAGraph", graph),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return gpu


def batch_of(num: int, value: float) -> Batch:
    return Batch(torch.full((num, 3, 4, 4), value), torch.full((num,), int(value)))


def test_warm_up_and_capture_share_one_stream(gpu: Gpu) -> None:
    """torch keeps a stream's freed memory for it: as many streams, as many times a step's memory."""
    used: list[Stream] = []

    def compute(batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(gpu.current)
        return batch.images.sum(), batch.labels.sum()

    captured = CapturedStep(compute, batch_of(2, 0), DropoutKey(torch.tensor(0)))
    for step in range(3):
        captured(batch_of(2, step), DropoutKey(torch.tensor(step)))
    assert len(gpu.made) == 1
    assert used == gpu.made * (WARM_UP + 1)
    assert gpu.captured_on == gpu.made
    assert gpu.replays == 3


def test_a_replay_reads_the_batch_and_the_key_of_the_day(gpu: Gpu) -> None:
    seen: list[tuple[Batch, DropoutKey]] = []

    def compute(batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((batch, dropout))
        return batch.images.sum(), batch.labels.sum()

    captured = CapturedStep(compute, batch_of(2, 0), DropoutKey(torch.tensor(0), first_row=7))
    captured(batch_of(2, 5), DropoutKey(torch.tensor(15), first_row=7))
    batch, dropout = seen[-1]
    assert batch.images.eq(5).all() and batch.labels.eq(5).all()
    assert (int(dropout.key), dropout.first_row) == (15, 7)
    # What is left of the mean is subtracted on the way; the loader's batch stays as it is.
    residual = torch.arange(48).reshape(3, 4, 4)
    unfinished = Batch(torch.full((2, 3, 4, 4), 5), batch.labels, residual)
    captured(unfinished, dropout)
    assert torch.equal(batch.images, (5 - residual).expand(2, 3, 4, 4))
    assert unfinished.images.eq(5).all()
    assert captured.fits(batch_of(2, 1), dropout)
    assert not captured.fits(batch_of(1, 1), dropout)
    assert not captured.fits(batch_of(2, 1), DropoutKey(dropout.key, first_row=0))
    assert not captured.fits(Batch(batch.images.half(), batch.labels), dropout)


# ------------------------------------------------------------------ of a whole training step

PRECISIONS = [
    Precision("fp32", torch.float32, ""),
    Precision("bf16", torch.bfloat16, ""),
    Precision("fp16", torch.float16, ""),
]


def make(precision: Precision) -> TrainingStep:
    model = AlexNet(small(NETS["145"]))
    model.initialize(1)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=precision)


def training_batch(step: TrainingStep, number: int, num: int = 4) -> Batch:
    images = torch.randn(num, 3, 67, 67, generator=torch.Generator().manual_seed(number)) * 60
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(num) % 10)


def state(step: TrainingStep) -> dict[str, torch.Tensor]:
    tensors = {f"velocity {name}": tensor for name, tensor in step.optimizer.velocities.items()}
    tensors |= {f"working {name}": tensor for name, tensor in step.working.items()}
    tensors |= {"alive": step.alive, "scale": step.scale, "good steps": step.good_steps, **step.parameters}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_capturing_changes_nothing(precision: Precision) -> None:
    """Bit for bit, in the middle of a run; the next step is what it would have been."""
    step, other = make(precision), make(precision)
    for one in (step, other):
        one.load_state_dict({"scale": 1024.0, "good_steps": 17})
        one(training_batch(one, 0), step=0, seed=0)
    before = state(step)
    assert step.capture(4, torch.float32) is None and step.captured is not None
    after = state(step)
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert all(tensor.grad is None for tensor in step.working.values())
    step.captured = None  # a stand-in's replay computes nothing
    for one in (step, other):
        one(training_batch(one, 1), step=1, seed=0)
    expected = state(other)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state(step).items())


def test_what_cannot_be_captured_is_computed_and_reported_in_a_line(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    step = make(PRECISIONS[0])
    before = state(step)
    compute = step.compute_now

    def fail(batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        if gpu.captured_on:
            raise RuntimeError("operation not permitted when stream is capturing\nmore words")
        return compute(batch, dropout)

    monkeypatch.setattr(step, "compute_now", fail)
    message = step.capture(4, torch.float32)
    assert message is not None and message.endswith("CUDA graph (operation not permitted when stream is capturing)")
    assert "\n" not in message and step.captured is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(step).items())
    monkeypatch.setattr(step, "compute_now", compute)
    step(training_batch(step, 0), step=0, seed=0)
    assert gpu.replays == 0 and not torch.equal(step.parameters["fc8.bias"], before["fc8.bias"])


@pytest.mark.usefixtures("gpu")
def test_a_step_without_room_says_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library that misses the memory calls it."""
    step = make(PRECISIONS[0])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**22, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    step.device = torch.device("cuda", 0)
    monkeypatch.setattr("alexnet_fast.training.train_step.free_gpu_memory", lambda: None)
    for words in (
        "CUDA out of memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this",
    ):
        message = step.out_of_memory(RuntimeError(words), 300)
        assert message is not None and "a step with 300 images on this GPU does not fit" in message
    # With room enough it is another fault, which must be seen.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**36, 2**37))
    assert step.out_of_memory(RuntimeError("GET was unable to find an engine to execute this"), 300) is None
    assert step.out_of_memory(RuntimeError("an illegal memory access was encountered"), 300) is None

    def fail(*_: object) -> None:
        raise RuntimeError("CUDNN_STATUS_ALLOC_FAILED")

    step.device = torch.device("cpu")
    monkeypatch.setattr(step, "compute_now", fail)
    monkeypatch.setattr(step, "out_of_memory", lambda error, num: f"no room for {num}")
    with pytest.raises(UserError, match="no room for 4"):
        step.capture(4, torch.float32)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_step_is_timed_and_captured_before_dali_starts(
    device: str, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On resuming too, where the loader is put to its place: DALI's threads make a capture fail."""
    happened: list[str] = []

    def noted(module: Any, name: str, real: Any = lambda *arguments: None) -> None:
        def call(*arguments: Any) -> Any:
            happened.append(name)
            return real(*arguments)

        monkeypatch.setattr(module, name, call)

    prepare = session.prepare_step
    noted(session, "choose_convolutions")
    noted(TrainingStep, "capture")
    noted(pipeline_run, "build", pipeline_run.build)
    # The rest of the session is a CPU's: only what comes before DALI is given the other device.
    monkeypatch.setattr(
        session, "prepare_step", lambda step, recipe, _, loader: prepare(step, recipe, torch.device(device), loader)
    )
    before = ["choose_convolutions"] + ["capture"] * (device == "cuda")
    for epochs in (1, 2):
        settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "precision=fp32", f"epochs={epochs}"]
        recipe = load_recipe("2013", settings)
        train(tiny_dataset, recipe, tmp_path / "run", device="cpu", quiet=True, resume=epochs > 1)
        assert happened[: len(before) + 1] == [*before, "build"] and happened.count("capture") == len(before) - 1
        happened.clear()
