"""The checks' functions that take a device: on a CPU always, so that no slip waits for the first GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.check import loading, reference, worlds
from alexnet_fast.check.runner import CheckFailedError
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

CPU = torch.device("cpu")


def test_ten_views_are_those_of_plain_crops(tiny_dataset: Dataset) -> None:
    shown = reference.compare_ten_views(tiny_dataset, CPU)
    assert "14 images: pixels within" in shown
    spread = re.search(r"probabilities of 0 to (\d\.\d+)", shown)
    assert spread is not None and float(spread[1]) > 0.5  # a network without opinions could not be wrong


def test_a_view_that_is_not_mirrored_fails(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def views(batch: EvaluationBatch, num_views: int) -> list[Any]:
        return [lambda number=number: batch.cut_view(number % 5) for number in range(num_views)]

    monkeypatch.setattr(EvaluationBatch, "views", views)
    with pytest.raises(CheckFailedError, match="ten views differ from crops on the CPU: 14 images: pixels within"):
        reference.compare_ten_views(tiny_dataset, CPU)


def test_steps_follow_the_formula() -> None:
    assert "2 steps, eager: at most" in reference.compare_steps(CPU, 2, torch.float64)
    assert "3 steps, eager: at most" in reference.compare_steps(CPU, 3)


@pytest.mark.parametrize("name", ["momentum", "rate"])
def test_another_formula_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "rate":
        monkeypatch.setattr(reference, "LR_BIASES", 0.03)
        monkeypatch.setattr(SGD, "set_rates", lambda self, **rates: self.rates.fill_(0.01))
    else:
        init = SGD.__init__
        monkeypatch.setattr(SGD, "__init__", lambda self, model: init(self, model, momentum=0.5))
    with pytest.raises(CheckFailedError, match="differs from the formula in float64: 2 steps"):
        reference.compare_steps(CPU, 2)


def test_a_second_epoch_as_where_nothing_is_kept(tiny_dataset: Dataset, tmp_path: Path) -> None:
    shown = loading.second_epoch_from_cache(tiny_dataset, CPU, tmp_path / "cached")
    assert shown.startswith("59 images, none kept, at most 0.00 from those decoded anew")


def test_images_that_are_not_kept_are_missed(tiny_dataset: Dataset, tmp_path: Path) -> None:
    """What destroys the images between the epochs of a GPU's cache leaves nothing to decode."""
    import shutil

    copy = Dataset.load(shutil.copytree(tiny_dataset.folder, tmp_path / "copy"))
    loading.destroy_images(copy.tars("train"))
    copy.check_sizes()
    with TrainingLoader(copy, batch_size=1, device=CPU, seed=3) as loader:
        found, told = loading.images_until_error(loader.epoch(1))
    assert not found and "train-000000.tar" in told


def test_waiting_is_what_a_slow_loader_costs(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    model = AlexNet(small(NETS["167"], divisor=16, image_size=224))
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    step = TrainingStep(model, optimizer, precision=reference.FP32)
    monkeypatch.setattr(loading, "LEAD", 2)
    right = loading.endless

    def slow(loader: TrainingLoader) -> Any:
        for batch in right(loader):
            time.sleep(0.5)
            yield batch

    shares = []
    for batches in (right, slow):
        monkeypatch.setattr(loading, "endless", batches)
        with TrainingLoader(tiny_dataset, batch_size=4, device=CPU, seed=0) as loader:
            shown = loading.training_rate(step, loader, 8)
        match = re.fullmatch(r"[\d,]+ img/s from shards to weights at batch 4, (\d+)% waiting for data", shown)
        assert match is not None, shown
        shares.append(int(match[1]))
    assert shares[1] > shares[0] + 15


def test_two_by_two_processes_train_as_one() -> None:
    torch.set_num_threads(1)
    assert "3 steps of 2 × 2 processes: losses within" in worlds.compare_two_by_two("cpu", steps=3)


def test_a_killed_rank_ends_its_world(tmp_path: Path) -> None:
    shown = worlds.end_after_a_killed_rank("cpu", tmp_path)
    assert re.match(r"a killed rank ends the others in \d+\.\d s: ", shown) and "SIGKILL" in shown
