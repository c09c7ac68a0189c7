"""In which precision the evaluation at the end is made, and of which split the best error is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.runs.checkpoint import newest_checkpoint, save_checkpoint
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import recipe_of_run
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.evaluator import final_dtype
from alexnet_fast.training.run import train

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("training", "epochs", "views", "expected"),
    [
        (torch.bfloat16, 95, 10 * 50_000, torch.float32),
        (torch.float16, 93, 10 * 150_000, torch.float32),
        (torch.bfloat16, 95, 50_000, torch.float32),
        (torch.bfloat16, 2, 10 * 50_000, torch.bfloat16),
        (torch.float32, 2, 10 * 50_000, torch.float32),
        (torch.float64, 95, 10, torch.float64),
    ],
)
def test_the_last_evaluation_is_in_float32_where_it_is_cheap(
    training: torch.dtype, epochs: int, views: int, expected: torch.dtype
) -> None:
    assert final_dtype(training, trained=epochs * IMAGENET, views=views) == expected


def test_a_tenth_of_the_run_is_the_limit() -> None:
    """16 times as slow as a forward pass, of which a training image costs three."""
    assert final_dtype(torch.bfloat16, trained=1600, views=29) == torch.float32
    assert final_dtype(torch.bfloat16, trained=1600, views=31) == torch.bfloat16


def test_the_best_error_is_of_the_split_that_is_evaluated_now(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """A run that was resumed with another val_split would report the best of the split before for ever."""
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    file, checkpoint, _ = newest_checkpoint(run / "checkpoints") or pytest.fail("no checkpoint")
    save_checkpoint(file, replace(checkpoint, error=0.0, best_error=0.0))
    recipe = replace(recipe_of_run(RunFolder(run)), epochs=2.0, val_split="train")
    result = train(tiny_dataset, recipe, run, resume=True, device="cpu", quiet=True)
    errors = [line["top1_error"] for line in RunFolder(run).read_metrics() if line.get("split") == "train"]
    assert len(errors) == 2 and min(errors) > 0  # of the weights that it was resumed with, and of the second epoch
    assert result["best_top1_error"] == min(errors)
