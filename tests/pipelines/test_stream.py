"""The fingerprint of a stream: whatever changes the images is in it, and a place in another stream is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from alexnet_fast.pipelines.augmentation import Augmentation
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset, Statistics
from alexnet_fast.tools.errors import UserError

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "batch size": ({"batch_size": 5}, "batch size was 4, is 5"),
    "seed": ({"seed": 1}, "seed was 0, is 1"),
    "rank": ({"rank": 1, "num_ranks": 2}, "rank was 0 of 1, is 1 of 2"),
    "mean": ({"mean": "image"}, "mean was rgb, is image"),
    "pca_jitter": ({"augmentation": Augmentation(pca_jitter=0.2)}, "pca_jitter was 0.1, is 0.2"),
    "pca_jitter, undivided": (
        {"augmentation": Augmentation(pca_jitter_divisor=False)},
        "pca_jitter was 0.1, is 0.1, undivided",
    ),
    "crop": ({"augmentation": Augmentation(crop_and_mirror=False)}, "crop was 224 of 256, is 224 of 256, center"),
    "shuffle buffer": ({"shuffle_buffer": 3}, "shuffle buffer was 25, is 3"),
    "dtype": ({"dtype": torch.float16}, "dtype was float32, is float16"),
    "split": ({"split": "val"}, "split was train, is val"),
}
"""Field -> what is changed of the loader, and what is reported."""
OTHERS = {"data set", "decoder", "DALI"}
"""Fields with a test of their own."""


def loader_of(dataset: Dataset, **choices: Any) -> TrainingLoader:
    defaults: dict[str, Any] = {
        "batch_size": 4,
        "seed": 0,
        "options": LoaderOptions(1),
        "mean": "rgb",
        "shuffle_buffer": 25,
    }
    return TrainingLoader(dataset, device=torch.device("cpu"), **(defaults | choices))


@pytest.fixture(scope="module")
def state(tiny_dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Taken after an epoch's first batch."""
    with loader_of(tiny_dataset) as loader:
        next(loader.epoch(0))
        yield loader.state_dict()


def refuses(loader: TrainingLoader, state: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        loader.load_state_dict(state)


@pytest.mark.parametrize("field", CHANGES)
def test_another_stream_is_refused(tiny_dataset: Dataset, state: dict[str, Any], field: str) -> None:
    choices, words = CHANGES[field]
    refuses(loader_of(tiny_dataset, **choices), state, words)


def test_the_same_stream_is_taken(tiny_dataset: Dataset, state: dict[str, Any]) -> None:
    loader_of(tiny_dataset, options=LoaderOptions(2, 4)).load_state_dict(state)


def test_every_field_has_its_test(tiny_dataset: Dataset) -> None:
    assert {field.partition(",")[0] for field in CHANGES} | OTHERS == loader_of(tiny_dataset).stream().keys()


def changed_shard(dataset: Dataset) -> Dataset:
    train = dataset.splits["train"]
    shards = (replace(train.shards[0], sha256="0" * 64), *train.shards[1:])
    return replace(dataset, splits={**dataset.splits, "train": replace(train, shards=shards)})


def changed_statistics(dataset: Dataset) -> Dataset:
    statistics: Statistics = dataset.statistics
    return replace(dataset, statistics=replace(statistics, covariance=statistics.covariance * 2))


def changed_mean_image(dataset: Dataset) -> Dataset:
    return replace(dataset, file_hashes={**dataset.file_hashes, "mean_image.npy": "0" * 64})


@pytest.mark.parametrize("change", [changed_shard, changed_statistics, changed_mean_image])
def test_another_data_set_is_refused(tiny_dataset: Dataset, state: dict[str, Any], change: Any) -> None:
    refuses(loader_of(change(tiny_dataset)), state, "data set was")


def test_another_size_of_image_is_refused(tiny_dataset: Dataset, state: dict[str, Any]) -> None:
    other = replace(tiny_dataset, image_options=replace(tiny_dataset.image_options, size=240))
    refuses(loader_of(other), state, "crop was 224 of 256, is 224 of 240")


def test_another_dali_is_refused(tiny_dataset: Dataset, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.pipelines.loader.VERSION", "0.1")
    refuses(loader_of(tiny_dataset), state, r"DALI was \d.*, is 0\.1")


def test_another_decoder_is_refused(tiny_dataset: Dataset, state: dict[str, Any]) -> None:
    loader = loader_of(tiny_dataset)
    loader._decoding = Decoding("mixed", 256, 0.5)
    refuses(loader, state, "decoder was cpu, is mixed, 0.5 by the JPEG engines")


def test_a_place_brings_its_way_of_decoding(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: tuned anew, or in a new container, an interrupted epoch resumes, to the last bit, as it began."""
    monkeypatch.setattr("alexnet_fast.pipelines.settings.machine_key", lambda device: "a machine")
    monkeypatch.setattr("alexnet_fast.pipelines.loader.as_device", torch.device)

    def on_gpu(**options: Any) -> TrainingLoader:
        choices: dict[str, Any] = {"batch_size": 4, "seed": 0, "mean": "rgb", "shuffle_buffer": 25}
        return TrainingLoader(
            tiny_dataset, device=torch.device("cuda", 0), options=LoaderOptions(1, **options), **choices
        )

    began, resumed = on_gpu(hw_decoder_load=0.5, decode_batch=8), on_gpu(hw_decoder_load=0.65, decode_on="cpu")
    state = began.state_dict() | {"epoch": 0, "batches": 3, "samples": 8, "dali": "AAAA"}
    resumed.load_state_dict(state)
    assert resumed._decoding == began._decoding == Decoding("mixed", 256, 0.5)
    assert resumed._execution.batch_size == began._execution.batch_size == 8
    assert resumed.state_dict() == state
    with loader_of(tiny_dataset) as on_cpu:
        refuses(on_cpu, state, "decoder was mixed, 0.5 by the JPEG engines, is cpu")


def test_an_order_that_keeps_samples_on_their_rank_is_another(tiny_dataset: Dataset) -> None:
    with loader_of(tiny_dataset, num_ranks=2) as loader:
        next(loader.epoch(0))
        state = loader.state_dict()
    other = loader_of(tiny_dataset, num_ranks=2)
    other._epochs = replace(other._epochs, same_samples=True)  # as where decoded images are kept
    refuses(other, state, "rank was 0 of 2, is 0 of 2, always the same samples")


def test_engines_mean_nothing_on_a_cpu(tiny_dataset: Dataset, state: dict[str, Any]) -> None:
    loader_of(tiny_dataset, options=LoaderOptions(hw_decoder_load=0.1)).load_state_dict(state)


def test_another_version_of_the_state_is_refused(tiny_dataset: Dataset, state: dict[str, Any]) -> None:
    refuses(loader_of(tiny_dataset), state | {"version": 3}, "version 3; this program reads 6.*from an epoch's start")
