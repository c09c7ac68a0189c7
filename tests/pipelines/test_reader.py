"""What the reader takes of the machine while it reads, and labels from what the shards hold of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.reader import NO_NUMBER, Reading, labels_of
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError


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


def test_a_path_that_dali_cannot_take_is_reported() -> None:
    choices = {"rank": 0, "num_ranks": 1, "shuffle_buffer": None, "seed": 0}
    assert Reading.of([Path("ünï/a.tar")], [], **choices).tars == ("ünï/a.tar",)
    with pytest.raises(UsageError, match=r"^bad\\xff/a.tar: .* not UTF-8; rename the folder"):
        Reading.of([Path(os.fsdecode(b"bad\xff")) / "a.tar"], [], **choices)


def test_an_epoch_does_not_begin_by_reading_all_shards(tiny_dataset: Dataset) -> None:
    loader = TrainingLoader(
        tiny_dataset, batch_size=1, device=torch.device("cpu"), seed=0, options=LoaderOptions(1, 1), shuffle_buffer=1
    )
    with loader:
        next(loader.epoch(0))
        mapped = mapped_tars(tiny_dataset.folder)
    assert mapped["Size"] >= tiny_dataset.split("train").bytes
    assert mapped["Rss"] < mapped["Size"] / 2


ADDRESSES = """
import sys, torch
from pathlib import Path
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError
def reserved():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096
for shuffle_buffer in (1, 59):
    choices = {"batch_size": 1, "seed": 0, "options": LoaderOptions(1, 1), "shuffle_buffer": shuffle_buffer}
    with TrainingLoader(Dataset.load(sys.argv[1]), device=torch.device("cpu"), **choices) as loader:
        before = reserved()
        next(loader.epoch(0))
        grown = reserved() - before
print(grown)
"""


def test_the_buffer_reserves_little(tiny_dataset: Dataset) -> None:
    command = [sys.executable, "-c", ADDRESSES, str(tiny_dataset.folder)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    # 28 MB with any buffer, for threads; 95 MB where each of the 59 samples reserves 1 MiB.
    assert int(finished.stdout) < 60e6


def test_labels_are_the_numbers_that_their_digits_spell() -> None:
    numbers = [0, 7, 90, 999, 12_345, 99_999]
    text = b"".join(b"%05d" % number for number in numbers)
    digits = torch.from_numpy(np.frombuffer(bytearray(text), np.uint8).reshape(-1, 5))
    labels = labels_of(digits)
    assert labels.dtype == torch.int64 and labels.tolist() == numbers
    for text in (b"0000:", b"0000/", b"00 03", b"0003\0", b"-0003"):
        ours = torch.from_numpy(np.frombuffer(bytearray(b"00003" + text), np.uint8).reshape(-1, 5))
        assert labels_of(ours).tolist() == [3, NO_NUMBER]
    # On a device without values nothing can look at one: on a GPU the host does not wait.
    assert labels_of(digits.to("meta")).shape == (6,)
