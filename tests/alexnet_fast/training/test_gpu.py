"""Whole runs on GPUs; `alexnet-fast check` and tests/alexnet_fast/check show their parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.runs.checkpoint import load_checkpoint, saved_checkpoints
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.run import train as train_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_train_on_a_gpu(tiny_dataset: Dataset, tmp_path: Path, cuda_graph: bool) -> None:
    settings = [
        "width_divisor=16",
        "batch_size=8",
        "lr_base_batch_size=8",
        "epochs=2",
        f"cuda_graph={cuda_graph}".lower(),
    ]
    result = train_run(tiny_dataset, load_recipe("2013", settings), tmp_path / "run", device="cuda", quiet=True)
    assert result["steps"] == 14
    assert result["10_views"]["num_samples"] == 30


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["towers", "data"])
def test_train_on_two_gpus(tiny_dataset: Dataset, tmp_path: Path, parallel: str) -> None:
    settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=2"]
    recipe = load_recipe("2013", settings)
    result = train_run(tiny_dataset, recipe, tmp_path / "run", gpus=2, parallel=parallel, quiet=True)
    assert result["steps"] == 14
    assert result["10_views"]["num_samples"] == 30


def test_a_run_that_keeps_decoded_images(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=3", "final_views=1"]
    recipe = load_recipe("2013", settings)
    result = train_run(tiny_dataset, recipe, tmp_path / "run", device="cuda", quiet=True, cache_decoded="auto")
    assert result["steps"] == 21 and result["decoded_images_gib"] == 0.01
    with pytest.raises(UserError, match="GiB free"):
        train_run(tiny_dataset, recipe, tmp_path / "other", device="cuda", quiet=True, cache_decoded=1e6)


def test_deterministic_runs_are_equal_bit_for_bit(tiny_dataset: Dataset, tmp_path: Path) -> None:
    weights = []
    settings = ("width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=2")
    sets = [word for setting in settings for word in ("--set", setting)]
    for run in (tmp_path / "one", tmp_path / "other"):
        command = [sys.executable, "-m", "alexnet_fast", "train", str(tiny_dataset.folder), "--deterministic"]
        subprocess.run([*command, *sets, "--device", "cuda", "--out", str(run)], check=True)
        weights.append(load_checkpoint(saved_checkpoints(run / "checkpoints")[-1]).model)
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
