"""What a run reports and what it warns of; its loader, on a GPU of which only the free memory is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.pipelines import settings
from alexnet_fast.pipelines.decoded_cache import GIB, MIB, CacheSize
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.training.job import (
    Job,
    check_enough_classes,
    check_same_job,
    doubt_of_data,
    make_loader,
    memory_of_training,
)

BF16 = Precision("bf16", torch.bfloat16, "")
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "machine_key", lambda device: "a machine")


def job_of(dataset: Dataset, cache_decoded: CacheSize | None) -> Job:
    recipe = load_recipe("2013", ["batch_size=16", "mean=rgb"])
    return Job(dataset, recipe, Path("run"), False, True, False, cache_decoded)


def kept_mib(dataset: Dataset, asked: CacheSize | None, free: int, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    return make_loader(Mesh(), CUDA, job_of(dataset, asked), BF16).memory.kept / MIB


def test_auto_keeps_what_training_leaves(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = -(-59 * 3 // 16)  # MiB of 59 images of 256 pixels on each side
    assert kept_mib(tiny_dataset, None, 10 * GIB, monkeypatch) == 0
    assert kept_mib(tiny_dataset, "auto", 10 * GIB, monkeypatch) == everything
    needed = memory_of_training(Mesh(), job_of(tiny_dataset, "auto"), BF16)
    assert needed > 700e6  # weights, momentum, gradients and working copies alone
    assert kept_mib(tiny_dataset, "auto", needed, monkeypatch) == 0
    assert kept_mib(tiny_dataset, 0.002, needed, monkeypatch) == 3
    with pytest.raises(UsageError, match=r"--cache-decoded 11: the GPU has 10\.0 GiB free"):
        kept_mib(tiny_dataset, 11.0, 10 * GIB, monkeypatch)


def test_a_process_with_one_tower_needs_memory_for_the_whole_batch_of_its_half(tiny_dataset: Dataset) -> None:
    job = job_of(tiny_dataset, "auto")
    both = memory_of_training(Mesh(), job, BF16)
    one = memory_of_training(Mesh(rank=1, world_size=2, split=True), job, BF16)
    assert 0.5 < one / both < 0.65


def test_machines_with_other_shards_or_recipes_do_not_train_together(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards that were made again and copied to one machine only: a label meant another class on each."""
    said: list[list[str]] = [[], []]
    looks = cycle(said)

    def gather(mesh: Mesh, own: str) -> list[str]:
        answers = next(looks)
        answers.append(own)
        return answers

    monkeypatch.setattr("alexnet_fast.training.job.all_gather_object", gather)
    job = job_of(tiny_dataset, None)
    for rank in range(2):
        check_same_job(Mesh(rank=rank, world_size=2), job)
    with pytest.raises(UserError, match="machines have different recipes"):
        check_same_job(Mesh(rank=2, world_size=3), replace(job, recipe=replace(job.recipe, seed=1)))
    others = replace(tiny_dataset, classes=tiny_dataset.classes[::-1])
    with pytest.raises(UserError, match=f"machines have different shards in {others.folder}"):
        check_same_job(Mesh(rank=2, world_size=3), replace(job, dataset=others))


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (10, "has 10 training images of 10 classes, 1 each: too few"),
        (59, "59 training images of 10 classes, 5.9 each"),
        (99, "9.9 each"),
        (100, None),
    ],
)
def test_too_few_images_of_a_class_are_reported(samples: int, words: str | None, tiny_dataset: Dataset) -> None:
    train = replace(tiny_dataset.splits["train"], samples=samples)
    doubt = doubt_of_data(replace(tiny_dataset, splits={"train": train}))
    assert doubt is None if words is None else doubt is not None and words in doubt


def test_a_single_class_is_reported_with_its_folder(tiny_dataset: Dataset) -> None:
    check_enough_classes(tiny_dataset)
    with pytest.raises(UsageError, match=f"{tiny_dataset.folder} has 1 class, .* at least 2"):
        check_enough_classes(replace(tiny_dataset, classes=tiny_dataset.classes[:1]))
