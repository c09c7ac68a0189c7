"""Evaluation: every sample exactly once, on any number of ranks; and the views that are cut from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.pipelines.loader import EvaluationLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.training.run import train
from tests.stored_samples import stored_samples

CPU = torch.device("cpu")


def stored_labels(dataset: Dataset, split: str) -> list[int]:
    return [sample.label for sample in stored_samples(dataset, split)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 8, 30, 128])
def test_evaluation_has_every_sample_exactly_once(tiny_dataset: Dataset, ranks: int, batch_size: int) -> None:
    stored = stored_labels(tiny_dataset, "val")
    labels: list[tuple[int, int]] = []
    for rank in range(ranks):
        loader = EvaluationLoader(
            tiny_dataset,
            batch_size=batch_size,
            device=CPU,
            rank=rank,
            num_ranks=ranks,
            options=LoaderOptions(1),
        )
        for batch in loader:
            labels += zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
            assert batch.cut_view(0).shape == (len(batch.labels), 3, 224, 224)
    assert sorted(labels) == list(enumerate(stored))  # 30 samples: 3 and 4 ranks get parts that differ


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"batch_size": 0}, "batch size 0: give 1 or more"),
        ({"num_ranks": 31}, "30 samples for 31 ranks"),
        ({"rank": 3, "num_ranks": 3}, "ranks count from 0 to 2"),
        ({"num_ranks": 0}, "0 ranks: give 1 or more"),
        ({"options": LoaderOptions(0)}, "0 loader threads"),
    ],
)
def test_what_cannot_be_evaluated_so(tiny_dataset: Dataset, choices: dict[str, Any], words: str) -> None:
    defaults: dict[str, Any] = {"batch_size": 10, "device": CPU}
    with pytest.raises(UsageError, match=words):
        EvaluationLoader(tiny_dataset, **(defaults | choices))


def test_ten_views_are_corners_center_and_mirrors(tiny_dataset: Dataset) -> None:
    batch = next(iter(EvaluationLoader(tiny_dataset, batch_size=5, device=CPU, mean="rgb")))
    views = [view() for view in batch.views(10)]
    for number in range(5):
        assert torch.equal(views[number].flip(3), views[number + 5])
    center, top_left, top_right, bottom_left, bottom_right = views[:5]
    assert torch.equal(center[:, :, :208, :208], top_left[:, :, 16:, 16:])
    assert torch.equal(top_left[:, :, :, 32:], top_right[:, :, :, :-32])
    assert torch.equal(top_left[:, :, 32:, :], bottom_left[:, :, :-32, :])
    assert torch.equal(top_right[:, :, 32:, :], bottom_right[:, :, :-32, :])


@pytest.mark.parametrize(
    ("processes", "batch_size", "words"),
    [
        (31, 31, "its val split has 30 samples for 31 ranks"),
        (2, 60, "59 samples, less than one batch of 30 on each of 2 ranks"),
        (60, 60, "59 samples for 60 ranks"),
    ],
)
def test_train_knows_before_it_starts_processes(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, batch_size: int, words: str
) -> None:
    def launch(*_: object) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr("alexnet_fast.training.run.launch", launch)
    recipe = load_recipe("2013", [f"batch_size={batch_size}"])
    with pytest.raises(UsageError, match=words):
        train(tiny_dataset, recipe, tmp_path / "run", device="cpu", processes=processes, parallel="data")
    assert not (tmp_path / "run").exists()
