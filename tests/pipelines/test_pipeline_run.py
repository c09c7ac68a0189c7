"""DALI's outputs in torch's hands: shared on a CPU, copied on a GPU."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from nvidia.dali import backend
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_fast.pipelines import pipeline_run as run
from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading, read_samples
from alexnet_fast.tools.dataset import Dataset


def test_on_a_cpu_torch_shares_dalis_memory_and_keeps_it(tiny_dataset: Dataset) -> None:
    reading = Reading.of(
        tiny_dataset.tars("train"), tiny_dataset.indexes("train"), rank=0, num_ranks=1, shuffle_buffer=None, seed=0
    )
    batches = PipelineRun(
        lambda: (read_samples(reading)[1],), Execution(4, torch.device("cpu"), num_threads=1, prefetch=2), 10
    )
    kept, copies = [], []
    for _ in range(10):
        (output,) = batches.next()
        kept.append(to_torch(output))
        copies.append(kept[-1].clone())
        assert kept[-1].data_ptr() == output.as_tensor().data_ptr()
        del output
    del batches
    assert all(torch.equal(*pair) for pair in zip(kept, copies, strict=True))


def test_on_a_gpu_torch_has_a_copy_in_the_order_of_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a machine without a GPU can tell: the numbers are DALI's affair, see test_gpu_decoding.py."""
    copied: list[tuple[Any, torch.Tensor, Any]] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("stream of", device))
    monkeypatch.setattr(run, "feed_ndarray", lambda tensor, to, cuda_stream: copied.append((tensor, to, cuda_stream)))
    tensor = SimpleNamespace(shape=lambda: [4, 224, 224, 3], dtype=types.FLOAT16, device_id=lambda: 1)
    with FakeTensorMode():
        given = to_torch(SimpleNamespace(as_tensor=lambda: tensor))
    assert given.shape == (4, 224, 224, 3) and given.dtype == torch.float16
    ((source, copy, stream),) = copied
    assert source is tensor and copy is given and stream == ("stream of", torch.device("cuda", 1))


def test_a_warning_about_libraries_that_are_not_used_is_not_shown() -> None:
    """As DALI words it on the first pipeline of a GPU; any other one is."""
    text = (
        "nvidia-dali-cuda120 is no longer shipped with CUDA runtime. You need to install it separately. {} is "
        "typically provided with CUDA Toolkit installation or an appropriate wheel."
    )
    said = ""
    show_warning: Any = backend.deprecation_warning  # type: ignore[attr-defined]
    pipeline = Mock(build=lambda: show_warning(said))
    for said in (text.format("cuFFT"), text.format("NPP"), "something else"):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            run.build(pipeline)
        assert [str(warning.message) for warning in shown] == ([said] if said == "something else" else [])
