"""Training end to end beside plain PyTorch: the baseline is a whole training, and rows hold what the programs say."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.bench import end_to_end, plain_training
from alexnet_fast.bench.baseline_loaders import why_missing
from alexnet_fast.bench.end_to_end import OURS, compare, competitors, result_of_ours
from alexnet_fast.bench.plain_training import MEAN_RGB, ImageFolder, folder_loaders, timm_loaders, train
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.tools.errors import UserError
from tests.forked import run_command

SMALL = ("batch_size=8", "lr_base_batch_size=8", "width_divisor=16", "precision=fp32", "final_views=1", "epochs=2")


@pytest.fixture(scope="module")
def images(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images, without the one that is cut short."""
    folder = tmp_path_factory.mktemp("images") / "images"
    shutil.copytree(tiny_shards.parent / "images", folder)
    (folder / "train" / "checks" / "checks_0005.JPEG").unlink()
    return folder


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_training, "num_cores", lambda: 1)


def test_an_image_is_resized_cropped_and_less_the_mean_color(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, color in (("a", (10, 20, 30)), ("b", (200, 100, 50))):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (512, 300), color).save(tmp_path / split / name / "x.png")
    ramp = np.arange(256, dtype=np.uint8)
    stored = np.stack([np.tile(ramp, (256, 1)), np.tile(ramp[:, None], (1, 256)), np.full((256, 256), 7, np.uint8)], 2)
    Image.fromarray(stored).save(tmp_path / "val" / "b" / "y.png")
    found = ImageFolder(tmp_path / "val", train=False)
    assert found.classes == ["a", "b"] and len(found) == 3
    pixels, label = found[0]
    assert pixels.shape == (3, 224, 224) and label == 0
    assert torch.allclose(pixels, (torch.tensor((10.0, 20.0, 30.0)) - torch.tensor(MEAN_RGB))[:, None, None])
    pixels, label = found[2]
    assert label == 1 and torch.equal(pixels[:2, 0, 0], torch.tensor([16.0, 16.0]) - torch.tensor(MEAN_RGB[:2]))
    assert torch.equal(pixels[0, 0].diff(), torch.ones(223)) and torch.equal(pixels[1, :, 0].diff(), torch.ones(223))


def test_the_baseline_trains_and_saves_what_it_evaluates(images: Path, tmp_path: Path) -> None:
    recipe = load_recipe("2013", SMALL)
    torch.manual_seed(0)
    loaders = folder_loaders(images, recipe.batch_size)
    before = plain_training.plain_network(recipe, 10).state_dict()
    found = train(recipe, loaders, tmp_path)
    assert (found["steps"], found["images"]) == (2 * (59 // 8), 2 * (59 // 8) * 8)
    saved = torch.load(tmp_path / "checkpoint.pt")["network"]
    assert all(not torch.equal(saved[name], before[name]) for name in before)
    network = PlainAlexNet(recipe.architecture(10)).eval()
    network.load_state_dict(saved)
    val = ImageFolder(images / "val", train=False)
    with torch.inference_mode():
        wrong = [int(network(pixels[None]).argmax()) != label for pixels, label in (val[i] for i in range(len(val)))]
    assert found["top1_error"] == pytest.approx(np.mean(wrong))


def test_timm_reads_our_shards(tiny_shards: Path) -> None:
    if reason := why_missing("timm"):
        pytest.skip(reason)
    batches, val, num_images, num_classes = timm_loaders(tiny_shards, 8)
    assert (num_images, num_classes) == (59, 10)
    pixels, labels = next(iter(batches))
    assert pixels.shape == (8, 3, 224, 224) and labels.max() < 10
    assert pixels.min() < -50 and pixels.max() > 50  # 0..255 less a mean
    assert sum(len(labels) for _, labels in val) == 30


def test_our_run_gives_the_same_numbers(images: Path, tiny_shards: Path, tmp_path: Path) -> None:
    command = competitors(images, tiny_shards, SMALL)[OURS]
    run_command([*command[3:], "--out", tmp_path / "run"], tmp_path, check=True)
    found = result_of_ours(tmp_path / "run")
    assert (found["steps"], found["images"]) == (2 * (59 // 8), 2 * (59 // 8) * 8)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found["top1_error"] == [line["top1_error"] for line in lines if line["kind"] == "val"][-1]
    assert 0 < found["training_seconds"] < lines[-1]["time"] - lines[0]["time"] + 1


def test_rows_are_medians_over_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {"images": 100, "steps": 10, "training_seconds": 2.0, "top1_error": 0.25}
    commands = {"other": [sys.executable, "-c", f"print('noise'); print({json.dumps(said)!r})"]}
    monkeypatch.setattr(end_to_end, "competitors", lambda *_: commands)
    (row,) = compare(tmp_path, tmp_path, (), turns=2)
    assert row.name == "other" and row.details["img/s while it trains"] == 50 and row.details["top-1 error"] == "25.0%"
    assert row.rate == pytest.approx(100 / float(row.details["seconds"]), rel=0.5)


def test_a_program_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(end_to_end, "competitors", lambda *_: {"other": [sys.executable, "-c", "raise OSError('no')"]})
    with pytest.raises(UserError, match="other ended with code 1: OSError: no"):
        compare(tmp_path, tmp_path, (), turns=1)
