"""Drawn images and their shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.demo.data import DemoData, draw_dataset
from tests.tools.shard_helpers import run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 drawn images, one of them broken, and a text file among them."""
    folder = tmp_path_factory.mktemp("source") / "images"
    draw_dataset(folder, DemoData(num_train=5, num_val=2))
    (folder / "train" / "star" / "notes.JPEG").write_text("not an image")
    return folder


@pytest.fixture(scope="session")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "shards"
    run(images, folder)
    return folder
