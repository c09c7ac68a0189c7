"""The preview, and shards that the network cannot take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_fast.demo_data import DemoData, draw_dataset
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.preview import draw_preview
from alexnet_fast.tools.dataset import Dataset, PictureOptions
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
