"""The end of `shard`: the next commands, a line each, and the recipe that fits the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_fast.commands import shard_command
from alexnet_fast.tools.dataset import Dataset


def next_lines(dataset: Dataset, samples: int, out: str, node: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed where `node` is the file that a machine with a GPU has."""
    monkeypatch.setattr(shard_command, "DEVICE_NODE", node)
    train = replace(dataset.splits["train"], samples=samples)
    return shard_command._next_commands(replace(dataset, splits={"train": train}), out).splitlines()


def test_a_small_data_set_on_a_cpu_is_trained_by_the_demo_recipe(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "nvidiactl"
    info, plain = "  alexnet-fast info 'my shards'", "  alexnet-fast train 'my shards'"
    small = next_lines(tiny_dataset, 4000, "my shards", node, monkeypatch)
    assert small == ["Next:", info, f"{plain} --recipe demo --epochs 12"]
    for samples, epochs in ((1000, 12), (600, 20), (30, 90)):
        few = next_lines(tiny_dataset, samples, "my shards", node, monkeypatch)
        assert few[-1] == f"{plain} --recipe demo --epochs {epochs}"
    assert next_lines(tiny_dataset, 1_281_167, "my shards", node, monkeypatch) == ["Next:", info, plain]
    node.touch()
    assert next_lines(tiny_dataset, 4000, "my shards", node, monkeypatch) == ["Next:", info, plain]


def test_shards_in_a_store_are_copied_first(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = next_lines(tiny_dataset, 10**6, "gs://bucket/shards", tmp_path / "none", monkeypatch)
    assert lines == [
        "Next:",
        "  alexnet-fast info gs://bucket/shards",
        "To train, copy the folder, say to shards:",
        "  alexnet-fast train shards",
    ]


def test_images_that_are_too_small_to_train_on_are_only_described(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(tiny_dataset, image_options=replace(tiny_dataset.image_options, size=64))
    lines = next_lines(small, 10**6, "shards", tmp_path / "none", monkeypatch)
    assert lines == ["Next:", "  alexnet-fast info shards"]
