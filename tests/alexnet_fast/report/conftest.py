"""A run on a data set whose class names try to be HTML."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.tools.dataset import MANIFEST, Dataset
from tests.alexnet_fast.report.hostile import HOSTILE


@pytest.fixture(scope="session")
def hostile_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; its shards lie beside it, in a folder whose name tries too."""
    from alexnet_fast.training.run import train

    folder = tmp_path_factory.mktemp("hostile") / "<script>document.title='pwned'<"
    shards, run = folder / "shards", folder / "run"
    shutil.copytree(tiny_shards, shards)
    manifest = json.loads((shards / MANIFEST).read_text())
    for entry, label in zip(manifest["classes"], HOSTILE, strict=False):
        entry[1] = label
    (shards / MANIFEST).write_text(json.dumps(manifest))
    settings = ["width_divisor=16", "batch_size=16", "epochs=2", "precision=fp32", "lr_weights=[0.02, 0.01]"]
    train(Dataset.load(shards), load_recipe("demo", settings), run, device="cpu", quiet=True)
    return run
