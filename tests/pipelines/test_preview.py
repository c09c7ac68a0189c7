"""The preview, and shards that the network cannot take."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.demo_data import DemoData, draw_dataset
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.preview import contact_samples, draw_preview
from alexnet_fast.tools.dataset import Dataset, DatasetClass, PictureOptions
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.errors import UsageError
from tests.tools.sharding import run


@pytest.fixture(scope="module")
def small_pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Shards of pictures one pixel smaller than the network's input."""
    folder = tmp_path_factory.mktemp("small")
    draw_dataset(folder / "pictures", DemoData(num_train=4, num_val=1))
    return run(folder / "pictures", folder / "shards", picture=PictureOptions(size=223)).dataset


def test_pictures_smaller_than_the_networks_input_are_refused(small_pictures: Dataset, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(UsageError, match="223×223 pixels, and the network takes 224×224"):
        TrainingLoader(small_pictures, batch_size=4, device=cpu, seed=0)
    with pytest.raises(UsageError, match="223×223 pixels"):
        EvaluationLoader(small_pictures, batch_size=4, device=cpu)
    with pytest.raises(UsageError, match="223×223 pixels"):
        draw_preview(small_pictures, tmp_path / "preview.png")


ODD_NAMES = [
    "$x_{$",
    "a$b",
    "$",
    "two\nlines",
    "\x1b[31mred\x1b[0m",
    "tab\there",
    "\udcff",
    "猫",
    r"\alpha",
    "under_score",
]


def test_class_names_are_shown_as_they_are(tiny_dataset: Dataset, tmp_path: Path) -> None:
    odd = replace(tiny_dataset, classes=tuple(DatasetClass(name, name) for name in ODD_NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_preview(odd, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 100_000
    told = describe(replace(odd, classes=odd.classes[3:]))
    assert r"(two\nlines, \x1b[31mred\x1b[0m, tab\there, \udcff, 猫, \alpha, …)" in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_the_contact_sheet_has_no_holes(tiny_dataset: Dataset) -> None:
    sheet = contact_samples(tiny_dataset, "train", 12)
    assert len({sample.stem for sample in sheet}) == 12
    assert {sample.label for sample in sheet} == set(range(10))
