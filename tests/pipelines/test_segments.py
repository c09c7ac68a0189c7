"""Epochs in segments: exact, reproducible, resumable, as where one reader has them whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.pipelines import segments
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.pipeline_run import PipelineRun
from alexnet_fast.pipelines.seeds import part_of_rank, shard_order
from alexnet_fast.pipelines.segments import Epochs, ordered_segments
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output

UNEVEN = (25, 3, 40, 17, 17, 1, 30, 22, 9, 9, 50, 12, 28, 5, 33, 19, 2, 25)


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of twenty samples: the tiny data set has three."""
    monkeypatch.setattr(segments, "SEGMENT_SAMPLES", 20)
    monkeypatch.setattr(segments, "SEGMENT_BATCHES", 1)
    yield


@pytest.fixture(scope="module")
def many_shards(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """59 training images in tars of five, the last of four."""
    source = find_source(str(tiny_shards.parent / "images"), None, val_fraction=None, seed=0, exclude=None, cache=None)
    folder = tmp_path_factory.mktemp("many") / "shards"
    plan = Plan(source, ShardOptions(shard_size=5))
    shard(plan, open_output(str(folder)), partial(local_pool, 1), strict=False, watch=lambda progress: None)
    return Dataset.load(folder)


def loader_of(dataset: Dataset, **choices: Any) -> TrainingLoader:
    defaults: dict[str, Any] = {"batch_size": 4, "device": "cpu", "seed": 0, "options": LoaderOptions(1)}
    return TrainingLoader(dataset, **(defaults | choices))


def many(loader: TrainingLoader, epoch: int) -> list[torch.Tensor]:
    return [tensor.clone() for batch in loader.epoch(epoch) for tensor in (batch.images, batch.labels)]


def sources_of(loader: TrainingLoader, epoch: int) -> list[str]:
    """Where each sample of a rank's epoch came from, by running the loader's own graphs with their sources."""
    found: list[str] = []
    normalization = loader.normalization(epoch, pca_jitter=True)
    for segment in loader._epochs.segments(epoch):
        reading = loader._reading(epoch, segment)
        graph = partial(normalization.graph, reading, start=segment.start, with_draws=True)
        num_batches = (segment.end - segment.start) // loader.batch_size
        run = PipelineRun(graph, loader._execution, num_batches)
        for _ in range(num_batches):
            sources = run.next()[-2]
            found += [bytes(np.array(sources.at(place))).decode() for place in range(loader.batch_size)]
    return found


# ------------------------------------------------------------------- how an epoch is cut


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("same_samples", [True, False])
@pytest.mark.parametrize(("batch_size", "num_ranks"), [(1, 1), (3, 1), (4, 2), (2, 5), (17, 1), (8, 8), (347, 1)])
def test_segments_cover_an_epoch(batch_size: int, num_ranks: int, same_samples: bool) -> None:
    epochs = Epochs(UNEVEN, batch_size, num_ranks, seed=0, same_samples=same_samples)
    assert epochs.num_segments == max(1, min(-(-sum(UNEVEN) // 20), sum(UNEVEN) // (batch_size * num_ranks)))
    assert epochs.num_batches >= 1
    for epoch in range(8):
        found = epochs.segments(epoch)
        shards = [place for segment in found for place in segment.shards]
        assert len(shards) == len(set(shards)) and set(shards) <= set(range(len(UNEVEN)))
        assert found[0].start == 0 and found[-1].end == epochs.num_batches * batch_size
        assert all(one.end == other.start for one, other in pairwise(found))
        for segment in found:
            assert segment.num_samples == sum(UNEVEN[place] for place in segment.shards)
            assert segment.end - segment.start <= segment.num_samples // num_ranks
            assert (segment.end - segment.start) % batch_size == 0


def test_a_segment_loses_less_than_a_batch_of_all_ranks() -> None:
    sizes = (1000,) * 14_200
    epochs = Epochs(sizes, batch_size=128, num_ranks=8, seed=0)
    assert epochs.num_segments == 8
    assert 14_200_000 // 1024 - 8 <= epochs.num_batches <= 14_200_000 // 1024
    assert all(segment.num_samples <= 2_001_000 for segment in epochs.segments(3))


@pytest.mark.parametrize(("num_ranks", "batch_size"), [(1, 128), (8, 128), (3, 7)])
def test_imagenet_is_one_segment_in_the_order_it_always_had(num_ranks: int, batch_size: int) -> None:
    sizes = (1000,) * 1281 + (167,)
    epochs = Epochs(sizes, batch_size, num_ranks, seed=5)
    (segment,) = epochs.segments(2)
    assert list(segment.shards) == shard_order(1282, 5, 2)
    assert epochs.num_batches == 1_281_167 // (batch_size * num_ranks)
    assert epochs.stream(0) == {"rank": f"0 of {num_ranks}"}


@pytest.mark.usefixtures("short_segments")
def test_in_order_nothing_is_cut_or_lost() -> None:
    epochs = Epochs(UNEVEN, 100, 1, seed=0, in_order=True)
    (segment,) = epochs.segments(4)
    assert segment.shards == tuple(range(len(UNEVEN)))
    assert segment.end == epochs.num_batches * 100 == 400


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_with_the_same_samples_each_rank_keeps_its_own(num_ranks: int) -> None:
    starts = [end - size for end, size in zip(accumulate(UNEVEN), UNEVEN, strict=True)]
    epochs = Epochs(UNEVEN, 1, num_ranks, seed=0, same_samples=True)
    seen: list[list[set[int]]] = []
    for epoch in range(5):
        of_ranks: list[set[int]] = [set() for _ in range(num_ranks)]
        for segment in epochs.segments(epoch):
            samples = [starts[place] + number for place in segment.shards for number in range(UNEVEN[place])]
            for rank, own in enumerate(of_ranks):
                part = part_of_rank(len(samples), rank, num_ranks)
                own.update(samples[part.start : part.stop])
        seen.append(of_ranks)
    for rank in range(num_ranks):
        whole = set.union(*(of_ranks[rank] for of_ranks in seen))
        others = set.union(*(of_ranks[other] for of_ranks in seen for other in range(num_ranks) if other != rank))
        assert not whole & others
    orders = {tuple(segment.shards for segment in epochs.segments(epoch)) for epoch in range(5)}
    assert len(orders) == 5


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("batch_size", [1, 3, 7, 20, 64])
@pytest.mark.parametrize("num_ranks", [1, 2, 5])
def test_ordered_segments_hold_a_rank_s_samples(batch_size: int, num_ranks: int) -> None:
    stored = [(place, number) for place, size in enumerate(UNEVEN) for number in range(size)]
    found = []
    for rank in range(num_ranks):
        part = part_of_rank(len(stored), rank, num_ranks)
        for segment in ordered_segments(UNEVEN, part, batch_size):
            held = [(place, number) for place in segment.shards for number in range(UNEVEN[place])]
            assert segment.num_samples == len(held)
            own = held[segment.offset : segment.offset + len(segment.samples)]
            assert own == stored[segment.samples.start : segment.samples.stop]
            # Nothing is opened in vain, and only a rank's last batch is not full.
            assert {own[0][0], own[-1][0]} == {segment.shards[0], segment.shards[-1]}
            assert len(own) <= max(20, batch_size)
            assert len(own) % batch_size == 0 or segment.samples.stop == part.stop
            found += own
    assert found == stored


# ------------------------------------------------------------------- what the loaders give


def evaluated(dataset: Dataset, ranks: int, batch_size: int) -> list[list[torch.Tensor]]:
    """Places, labels and mirrored corners of the batches of all ranks."""
    batches = []
    for rank in range(ranks):
        loader = EvaluationLoader(
            dataset, split="train", batch_size=batch_size, device="cpu", rank=rank, num_ranks=ranks,
            options=LoaderOptions(1),
        )  # fmt: skip
        found = [[tensor.clone() for tensor in (batch.indices, batch.labels, batch.cut_view(7))] for batch in loader]
        assert len(found) == len(loader)
        batches += found
    return batches


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 3), (1, 64), (2, 7), (3, 4)])
def test_an_evaluation_in_segments_gives_what_one_reader_gives(
    many_shards: Dataset, monkeypatch: pytest.MonkeyPatch, ranks: int, batch_size: int
) -> None:
    (whole,) = evaluated(many_shards, 1, 59)
    monkeypatch.setattr(segments, "SEGMENT_SAMPLES", 20)
    parts = evaluated(many_shards, ranks, batch_size)
    assert len(parts) > ranks or batch_size > 59 // ranks
    for tensor, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(pieces), tensor)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 3), (2, 2), (3, 3)])
def test_an_epoch_has_every_sample_at_most_once(many_shards: Dataset, ranks: int, batch_size: int) -> None:
    for epoch in (0, 1):
        seen: list[str] = []
        for rank in range(ranks):
            with loader_of(many_shards, batch_size=batch_size, rank=rank, num_ranks=ranks) as loader:
                assert loader._epochs.num_segments == 3
                own = sources_of(loader, epoch)
                assert len(own) == loader.num_batches * batch_size == sum(len(b.labels) for b in loader.epoch(epoch))
                seen += own
        assert len(seen) == len(set(seen)) >= 59 - 3 * (ranks * batch_size - 1)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("decode_batch", [4, 12, 20, 1000])
def test_the_stream_does_not_depend_on_the_decode_batch(many_shards: Dataset, decode_batch: int) -> None:
    with (
        loader_of(many_shards) as loader,
        loader_of(many_shards, options=LoaderOptions(2, decode_batch=decode_batch)) as other,
    ):
        wanted, found = many(loader, 3), many(other, 3)
    assert len(wanted) == 2 * loader.num_batches
    assert all(map(torch.equal, found, wanted))


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("decode_batch", [4, 12])
def test_an_epoch_resumes_at_every_batch(many_shards: Dataset, decode_batch: int) -> None:
    options = LoaderOptions(1, decode_batch=decode_batch)
    with loader_of(many_shards, options=options) as loader:
        wanted = many(loader, 3)
        states = [json.loads(json.dumps(loader.state_dict())) for _ in loader.epoch(3)]
        starts = {segment.start for segment in loader._epochs.segments(3)}
        wanted += many(loader, 4)
    assert {state["samples"] for state in states if state["dali"] is None} == starts and len(starts) == 3
    with loader_of(many_shards) as other:
        for batches, state in enumerate(states[:-1], 1):
            other.load_state_dict(state)
            found = many(other, 3)
            assert len(found) == 2 * (len(states) - batches)
            assert all(map(torch.equal, found, wanted[2 * batches : 2 * len(states)]))
        assert all(map(torch.equal, many(other, 4), wanted[2 * len(states) :]))


def test_a_place_in_an_epoch_that_was_cut_otherwise_is_refused(
    many_shards: Dataset, short_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loader_of(many_shards) as loader:
        next(loader.epoch(0))
        state = loader.state_dict()
        monkeypatch.setattr(segments, "SEGMENT_SAMPLES", 10_000)
        with loader_of(many_shards) as other, pytest.raises(UserError, match="segments was 3, is None"):
            other.load_state_dict(state)


@pytest.mark.usefixtures("short_segments")
def test_an_altered_index_is_found_in_whichever_segment(many_shards: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [shard.samples for shard in many_shards.split("train").shards]
    with loader_of(many_shards) as loader:
        last = loader._epochs.segments(0)[-1]
        sizes[last.shards[0]] += 1
        monkeypatch.setattr(loader, "_epochs", Epochs(tuple(sizes), 4, 1, 0))
        with pytest.raises(UserError, match=r"list 1\d samples, dataset.json says"):
            many(loader, 0)
