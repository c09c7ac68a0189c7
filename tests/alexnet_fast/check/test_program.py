"""What `alexnet-fast check` shows of the program passes here, and fails where something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.check import program
from alexnet_fast.check.runner import Place
from alexnet_fast.network.kernels import norms
from alexnet_fast.pipelines.draws import Draws, DrawStream
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError


@pytest.fixture
def place(tiny_dataset: Dataset, tmp_path: Path) -> Place:
    """With the tests' own shards, so that nothing is drawn."""
    (tmp_path / "shards").symlink_to(tiny_dataset.folder)
    (tmp_path / "images").symlink_to(tiny_dataset.folder.parent / "images")
    return Place(tmp_path, tiny_dataset.folder)


def test_sound_parts_pass(place: Place) -> None:
    assert program.check_cpu_kernels(place).startswith("against float64: float32 largest error")
    assert "equal to the last byte" in program.check_sharding(place)
    assert program.check_loader(place) == "59 samples, each once; resumed epochs are equal to the last bit"
    assert program.check_data(place).startswith("59 in train, 30 in val; 10 classes")


def test_a_norm_that_is_off_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    right = norms.local_response_norm

    def off(x: torch.Tensor, *options: Any) -> torch.Tensor:
        return right(x, *options) * 1.001

    monkeypatch.setattr(norms, "local_response_norm", off)
    with pytest.raises(UserError, match=r"norm across maps differs from float64 by 1\.0e-03"):
        program.check_cpu_kernels(place)


def test_a_stream_that_depends_on_the_decoded_batches_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    right = DrawStream.at

    def off(stream: DrawStream, start: int, count: int) -> Draws:
        draws = right(stream, start, count)
        return Draws(draws.corner, draws.mirror, draws.g + np.float32(count))

    monkeypatch.setattr(DrawStream, "at", off)
    with pytest.raises(UserError, match="resumed after 1 batches went on with other images"):
        program.check_loader(place)
