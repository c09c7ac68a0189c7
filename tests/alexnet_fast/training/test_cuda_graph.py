"""What is recorded of a step, when, and on which stream; by stand-ins for torch's graphs, so without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.cuda_graph import WARM_UP, Recording


class Stream:
    def wait_stream(self, other: Stream) -> None:
        """Nothing to wait for."""


class Gpu:
    """The main stream and the one in use; a graph calls again what was recorded."""

    def __init__(self) -> None:
        self.main = self.current = Stream()
        self.made: list[Stream] = []
        self.recorded_on: list[Stream] = []
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
        assert capture_error_mode == "thread_local"  # DALI's threads go on
        self.recorded_on.append(stream)
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


def test_warm_up_and_recording_share_one_stream(gpu: Gpu) -> None:
    """torch keeps a stream's freed memory for it: as many streams, as many times a step's memory."""
    used: list[Stream] = []

    def compute(batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(gpu.current)
        return batch.images.sum(), batch.labels.sum()

    recording = Recording()
    for step in range(WARM_UP + 3):
        recording(compute, batch_of(2, step), DropoutKey(torch.tensor(step)))
    assert len(gpu.made) == 1
    assert used == gpu.made * (WARM_UP + 1)
    assert gpu.recorded_on == gpu.made
    assert gpu.replays == 3


def test_a_replay_reads_the_batch_and_the_key_of_the_day(gpu: Gpu) -> None:
    seen: list[tuple[Batch, DropoutKey]] = []

    def compute(batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((batch, dropout))
        return batch.images.sum(), batch.labels.sum()

    recording = Recording()
    for step in range(WARM_UP + 2):
        recording(compute, batch_of(2, step), DropoutKey(torch.tensor(10 + step), first_row=7))
    batch, dropout = seen[-1]
    assert batch.images.eq(WARM_UP + 1).all() and batch.labels.eq(WARM_UP + 1).all()
    assert (int(dropout.key), dropout.first_row) == (10 + WARM_UP + 1, 7)
    other = recording(compute, batch_of(1, 5), DropoutKey(torch.tensor(0)))  # of another size: computed as it is
    assert float(other[0]) == 5 * 3 * 16 and gpu.replays == 2


def test_what_cannot_be_recorded_is_told(gpu: Gpu) -> None:
    def compute(batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        if gpu.recorded_on:
            raise RuntimeError("operation not permitted when stream is capturing\nmore words")
        return batch.images.sum(), batch.labels.sum()

    recording = Recording()
    with pytest.raises(UserError, match=r"capturing\): train without the recording, --set cuda_graph=false"):
        for step in range(WARM_UP + 1):
            recording(compute, batch_of(2, step), DropoutKey(torch.tensor(step)))
