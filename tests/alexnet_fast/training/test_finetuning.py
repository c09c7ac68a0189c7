"""`train --init --freeze`: from a trained network to other classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from alexnet_fast.config.recipe import Recipe, override, recipe
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.network.model import AlexNet
from alexnet_fast.runs.checkpoint import load_checkpoint, resolve_checkpoint, save_checkpoint
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.dataset import MANIFEST, Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.training import session
from alexnet_fast.training.run import train


@pytest.fixture
def others(tiny_shards: Path, tmp_path: Path) -> Dataset:
    """The tiny data set with other class names."""
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    manifest = json.loads((shards / MANIFEST).read_text())
    manifest["classes"] = [[f"other {name}", label] for name, label in manifest["classes"]]
    (shards / MANIFEST).write_text(json.dumps(manifest))
    return Dataset.load(shards)


def tuned(init: Path, freeze: str, **changes: object) -> Recipe:
    base = recipe("2013", width_divisor=16, batch_size=8, lr_base_batch_size=8, epochs=1, final_views=1)
    settings = [f"init={init}", f"freeze={freeze}", *(f"{key}={value}" for key, value in changes.items())]
    return override(base, settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_layers_stay_to_the_bit_and_the_others_learn(
    precision: str, small_run: Path, others: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(others, tuned(small_run, "conv1, conv2,fc6", precision=precision), run, device="cpu", quiet=True)
    before = load_checkpoint(resolve_checkpoint(small_run)).model
    after = load_checkpoint(resolve_checkpoint(run))
    same = {name for name, tensor in after.model.items() if torch.equal(tensor, before[name])}
    assert same == {f"{layer}.{kind}" for layer in ("conv1", "conv2", "fc6") for kind in ("weight", "bias")}
    assert after.optimizer is not None
    assert {name for name, velocity in after.optimizer.items() if not velocity.any()} == same
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert any("fc8 starts from random weights" in event for event in events)
    assert 'freeze = "conv1, conv2,fc6"' in (run / "recipe.toml").read_text()
    history = sorted(path.name for path in (run / "conv1").iterdir())
    assert history == ["epoch-000000.npy", "epoch-000001.npy"]


def test_a_fine_tuning_resumes_without_its_source(small_run: Path, others: Dataset, tmp_path: Path) -> None:
    source, run = tmp_path / "source.pt", tmp_path / "run"
    shutil.copy(resolve_checkpoint(small_run), source)
    train(others, tuned(source, "conv1", precision="fp32"), run, device="cpu", quiet=True)
    source.unlink()
    longer = tuned(source, "conv1", precision="fp32", epochs=2)
    train(others, longer, run, resume=True, device="cpu", quiet=True)
    after = load_checkpoint(resolve_checkpoint(run)).model
    before = load_checkpoint(resolve_checkpoint(small_run)).model
    assert torch.equal(after["conv1.weight"], before["conv1.weight"])


def test_two_processes_freeze_alike(small_run: Path, others: Dataset, tmp_path: Path) -> None:
    recipe_ = tuned(small_run, "conv1,fc7", precision="fp32")
    for parallel in ("data", "towers"):
        run = tmp_path / parallel
        train(others, recipe_, run, device="cpu", processes=2, parallel=parallel, quiet=True)
        before = load_checkpoint(resolve_checkpoint(small_run)).model
        after = load_checkpoint(resolve_checkpoint(run)).model
        assert torch.equal(after["fc7.weight"], before["fc7.weight"])
        assert not torch.equal(after["fc6.weight"], before["fc6.weight"])


def test_ranks_that_read_different_weights_do_not_train_on_them(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that still trains has a newer checkpoint by the time that the second rank looks."""
    digests: list[bytes] = []

    def gather(mesh: Mesh, own: bytes) -> list[bytes]:
        digests.append(own)
        return digests

    monkeypatch.setattr(session, "all_gather_object", gather)
    source = tmp_path / "source.pt"
    shutil.copy(resolve_checkpoint(small_run), source)
    recipe_, mesh = tuned(source, "conv1"), Mesh(rank=1, world_size=2)
    before = load_checkpoint(source)
    for _ in range(2):  # equal ones are fine
        session.initialize(AlexNet(before.architecture(), seed=None), recipe_, before.classes, mesh)
    before.model["fc8.bias"] += 1
    save_checkpoint(source, before)
    with pytest.raises(UserError, match="processes read different weights"):
        session.initialize(AlexNet(before.architecture(), seed=None), recipe_, before.classes, mesh)


def test_wrong_use_gets_a_clear_message(small_run: Path, others: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'conv1'"):
        tuned(small_run, "conv11")
    with pytest.raises(UsageError, match="fc8 distinguishes the classes"):
        tuned(small_run, "fc8")
    with pytest.raises(UsageError, match="give --init CHECKPOINT too"):
        override(recipe("2013"), ["freeze=conv1"])
    with pytest.raises(UsageError, match="there is no such checkpoint"):
        train(others, tuned(tmp_path / "none.pt", ""), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
