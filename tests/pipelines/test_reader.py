"""What the reader takes of the machine while it reads."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.tools.dataset import Dataset


def mapped_tars(folder: Path) -> dict[str, int]:
    """Rss and Size, in bytes, of this process's mappings of the folder's tars."""
    total = {"Rss": 0, "Size": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(".tar") and str(folder) in line
        elif inside and (found := re.match(r"(Rss|Size): +(\d+) kB", line)):
            total[found[1]] += int(found[2]) * 1024
    return total


def test_an_epoch_does_not_begin_by_reading_all_shards(tiny_dataset: Dataset) -> None:
    loader = TrainingLoader(
        tiny_dataset, batch_size=1, device=torch.device("cpu"), seed=0, num_threads=1, prefetch=1, shuffle_buffer=1
    )
    with loader:
        next(loader.epoch(0))
        mapped = mapped_tars(tiny_dataset.folder)
    assert mapped["Size"] >= tiny_dataset.split("train").bytes
    assert mapped["Rss"] < mapped["Size"] / 2
