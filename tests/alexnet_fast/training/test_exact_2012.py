"""Training as in 2012: every image once an epoch, resumable to the bit, the same in one process and as two towers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import Recipe, load_recipe
from alexnet_fast.runs.checkpoint import Checkpoint, load_checkpoint, saved_checkpoints
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import StoppedError, UsageError
from alexnet_fast.training.run import train
from alexnet_fast.training.train_step import TrainingStep

SETTINGS = (
    "exact_2012=true",
    "width_divisor=16",
    "batch_size=32",
    "epochs=2",
    "lr_weights=[0.002, 0.001, 0.0001, 0.00001]",
    "final_views=1",
)


def exact_recipe(*settings: str) -> Recipe:
    return load_recipe("2012", [*SETTINGS, *settings])


def last(run: Path) -> Checkpoint:
    return load_checkpoint(saved_checkpoints(run / "checkpoints")[-1])


@pytest.fixture(scope="module")
def unbroken(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("exact") / "unbroken"
    return run, train(tiny_dataset, exact_recipe(), run, device="cpu", quiet=True)


def test_every_image_is_trained_on_in_float32(unbroken: tuple[Path, dict[str, Any]]) -> None:
    run, result = unbroken
    assert result["steps"] == 4  # 59 images are a batch of 32 and one of 27
    assert result["precision"] == result["1_views"]["precision"] == "fp32"
    assert last(run).architecture().all_ties
    assert RunFolder(run).read_result() is not None


def test_a_stopped_run_ends_with_the_same_weights(
    unbroken: tuple[Path, dict[str, Any]], tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between an epoch's whole batch and its short one."""
    real = TrainingStep.__call__

    def signaled(train_step: TrainingStep, *arguments: Any, **options: Any) -> Any:
        if options["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(train_step, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(TrainingStep, "__call__", signaled)
        train(tiny_dataset, exact_recipe(), tmp_path / "run", device="cpu", quiet=True)
    assert last(tmp_path / "run").step == 3
    train(tiny_dataset, exact_recipe(), tmp_path / "run", resume=True, device="cpu", quiet=True)
    one, two = last(unbroken[0]), last(tmp_path / "run")
    assert one.optimizer is not None and two.optimizer is not None
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name]), name
        assert torch.equal(one.optimizer[name], two.optimizer[name]), name


def test_two_towers_train_on_the_same_batches(
    unbroken: tuple[Path, dict[str, Any]], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Each of two processes reads the whole batch, as both GPUs got it in 2012."""
    run = tmp_path / "towers"
    train(tiny_dataset, exact_recipe(), run, device="cpu", processes=2, parallel="towers", quiet=True)
    one, two = last(unbroken[0]), last(run)
    start = exact_recipe().architecture(len(tiny_dataset.classes))
    assert one.architecture() == two.architecture() == start
    for name, tensor in one.model.items():
        torch.testing.assert_close(two.model[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_what_2012_did_not_have_is_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exact_2012 with 2 replicas: in 2012 there was one"):
        train(tiny_dataset, exact_recipe(), tmp_path, device="cpu", processes=2, parallel="data", quiet=True)
    with pytest.raises(UsageError, match="has no test split, on which recipe 2010 is evaluated at the end"):
        train(tiny_dataset, load_recipe("2010"), tmp_path, device="cpu", quiet=True)


def test_the_last_evaluation_is_of_the_recipes_split(tiny_dataset: Dataset, tmp_path: Path) -> None:
    """The train split, for want of a test split: center views of it, while val is evaluated after each epoch."""
    recipe = exact_recipe("epochs=1", "final_split=train")
    result = train(tiny_dataset, recipe, tmp_path / "run", device="cpu", quiet=True)
    assert result["center_view"]["num_samples"] == tiny_dataset.split("val").samples == 30
    assert result["1_views"]["num_samples"] == 59 and result["final_split"] == "train"
    lines = [line for line in RunFolder(tmp_path / "run").read_metrics() if line["kind"] == "val"]
    assert [(line["split"], line["precision"]) for line in lines] == [("val", "fp32"), ("train", "fp32")]
