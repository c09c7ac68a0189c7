"""The shuffle: whole shards in another order every epoch, and the buffer that mixes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast.bench import shuffle_quality
from alexnet_fast.bench.shuffle_quality import ShuffleQuality, measure_shuffle
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.seeds import shard_order
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output


@pytest.fixture(scope="module")
def many_shards(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The tiny data set's images again, 59 training samples in 20 shards."""
    folder = tmp_path_factory.mktemp("many") / "shards"
    source = find_source(str(tiny_shards.parent / "images"), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(source, ShardOptions(shard_size=3))
    shard(plan, open_output(str(folder)), partial(local_pool, 1), strict=False, watch=lambda progress: None)
    return Dataset.load(folder)


def quality(dataset: Dataset, shuffle_buffer: int, num_epochs: int = 6) -> ShuffleQuality:
    with TrainingLoader(
        dataset,
        batch_size=1,
        device=torch.device("cpu"),
        seed=0,
        options=LoaderOptions(1),
        shuffle_buffer=shuffle_buffer,
    ) as loader:
        return measure_shuffle(loader, num_epochs)


def test_a_large_buffer_shuffles_as_chance_would(tiny_dataset: Dataset) -> None:
    found = quality(tiny_dataset, 59)
    # Six of each of ten classes less one: 5.0 of 58 neighbors alike; ρ of 59 has a standard deviation of 0.13.
    assert found.label_repeats_by_chance == pytest.approx((9 * 6 * 5 + 5 * 4) / (59 * 58))
    assert found.correlation_by_chance == pytest.approx(0.1048, abs=1e-4)
    assert found.label_repeats < 0.15
    assert found.correlation < 0.2


def test_shards_come_in_another_order_where_the_buffer_is_small(many_shards: Dataset) -> None:
    assert len(many_shards.tars("train")) == 20
    assert quality(many_shards, 2).correlation < 0.35  # 0.18 by chance for 20 whole shards; 1.0 without their order


def test_the_measure_notices_shards_in_the_same_order(many_shards: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.pipelines.segments.shard_order", lambda num, seed, epoch: list(range(num)))
    assert quality(many_shards, 2, num_epochs=3).correlation > 0.9


def test_the_measure_notices_sorted_labels(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    order_of = shuffle_quality._order_of

    def sorted_by_label(loader: TrainingLoader, epoch: int) -> object:
        order = order_of(loader, epoch)
        by_label = np.argsort(order.labels, kind="stable")
        return shuffle_quality._Order(order.labels[by_label], order.sources[by_label])

    monkeypatch.setattr(shuffle_quality, "_order_of", sorted_by_label)
    assert quality(tiny_dataset, 59, num_epochs=2).label_repeats == pytest.approx(49 / 58)


def test_every_epoch_has_its_own_permutation_of_the_shards() -> None:
    orders = [tuple(shard_order(20, seed, epoch)) for seed in (0, 1) for epoch in range(50)]
    assert len(set(orders)) == 100
    assert all(sorted(order) == list(range(20)) for order in orders)
    # Each shard comes at each place as often: 100 orders, 5 expected, χ² with 361 degrees of freedom.
    counts = np.zeros((20, 20))
    for order in orders:
        counts[range(20), order] += 1
    assert 250 < ((counts - 5) ** 2 / 5).sum() < 480
