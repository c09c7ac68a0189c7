"""Which images, weights and published errors a report shows."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.report.facts import summary_of
from alexnet_fast.report.published import why_not_comparable
from alexnet_fast.report.report import write_report
from alexnet_fast.report.subject import find_subject
from alexnet_fast.runs.checkpoint import load_checkpoint, save_checkpoint
from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.sources.imagenet import imagenet_classes
from tests.alexnet_fast.report.hostile import without_split


def silent(text: str) -> None: ...


def test_held_out_images_are_those_that_the_run_was_evaluated_on(hostile_run: Path, tmp_path: Path) -> None:
    """A data set with splits train and test, trained with --val-split test."""
    shards, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(hostile_run.parent / "shards", shards)
    manifest = json.loads((shards / MANIFEST).read_text())
    manifest["splits"]["test"] = manifest["splits"].pop("val")
    (shards / MANIFEST).write_text(json.dumps(manifest))
    shutil.copytree(hostile_run, run)
    recipe = (run / "recipe.toml").read_text().replace('val_split = "val"', 'val_split = "test"')
    (run / "recipe.toml").write_text(recipe)
    text = write_report(run, shards, None, device="cpu", say=silent).read_text(encoding="utf-8")
    assert 'id="own-error"' in text and 'id="layers"' in text and "no validation split" not in text


@pytest.mark.parametrize(("most", "val", "train"), [(28, 15, 19), (30, 30, 29), (9, 7, 8)])
def test_the_numbers_of_images_are_those_that_are_looked_at(
    hostile_run: Path, most: int, val: int, train: int, tmp_path: Path
) -> None:
    """Of 30 in val and 59 in train: the first of the fewest equal parts of at most `most`."""
    said: list[str] = []
    text = write_report(hostile_run, None, tmp_path / "r.html", most=most, device="cpu", say=said.append).read_text()
    assert f"looking at {val} of 30 images in val" in said
    assert f"looking for neighbors among {train} of " in said[1]
    assert f"Center view of {val} of\n30 held-out images" in text
    assert re.search(rf"among {train} of\n\d+ training images", text)
    assert not re.search(r">1 times", text)


def test_too_few_training_images_for_neighbors_are_reported(hostile_run: Path, tmp_path: Path) -> None:
    shards = without_split("train", hostile_run.parent / "shards", tmp_path / "shards")
    text = write_report(hostile_run, shards, tmp_path / "r.html", device="cpu", say=silent).read_text(encoding="utf-8")
    assert 'id="neighbors"' not in text and "Neighbors are 6 training images, and 0 of 0 were to be looked at" in text


def test_a_run_of_which_only_the_best_checkpoint_is_left_has_its_sections(hostile_run: Path, tmp_path: Path) -> None:
    """`eval`, `info` and `--resume` take best.pt then; so does the page."""
    shutil.copytree(hostile_run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("step-*.pt"):
        file.unlink()
    subject = find_subject(tmp_path / "run", None, torch.device("cpu"))
    assert subject.trained is not None and subject.trained.file.name == "best.pt"


def test_one_image_is_not_called_images(hostile_run: Path) -> None:
    subject = find_subject(hostile_run, None, torch.device("cpu"))
    assert subject.dataset is not None
    one = replace(subject.dataset, splits={"train": replace(subject.dataset.split("train"), samples=1)})
    assert summary_of(replace(subject, dataset=one)).endswith(", 10 classes, 1 image.")


def test_only_the_published_network_is_compared_with_its_published_errors() -> None:
    classes = tuple((entry.wnid, "") for entry in imagenet_classes())
    assert why_not_comparable(None, classes, load_recipe("2013")) == ""
    assert why_not_comparable(None, classes, load_recipe("2013", ["epochs=5"])) == ""
    for setting in ("width_divisor=8", "norms=none", "pooling=2/2", "activation=tanh"):
        assert "another network" in why_not_comparable(None, classes, load_recipe("2013", [setting]))
    assert "another data set" in why_not_comparable(None, classes[:10], load_recipe("2013"))


def test_a_fine_tuned_checkpoint_alone_has_no_initial_weights_to_show(hostile_run: Path, tmp_path: Path) -> None:
    """They were those of `init`, not the seed's."""
    checkpoint = load_checkpoint(hostile_run / "checkpoints" / "best.pt")
    alone, tuned = tmp_path / "alone.pt", tmp_path / "tuned.pt"
    save_checkpoint(alone, checkpoint)
    save_checkpoint(tuned, replace(checkpoint, recipe=replace(checkpoint.recipe, init="/somewhere/net.pt")))
    for file, shown in ((alone, True), (tuned, False)):
        text = write_report(file, None, tmp_path / "r.html", device="cpu", say=silent).read_text(encoding="utf-8")
        assert "mean color score" in text and ("minus the initial weights" in text) == shown
