"""Batches without data behave as those of shards do."""

from __future__ import annotations

import torch

from alexnet_fast.pipelines.synthetic import SyntheticLoader

CPU = torch.device("cpu")


def test_batches_look_like_the_real_ones() -> None:
    loader = SyntheticLoader(4, 5, 10, CPU)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.num_batches == 5
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    assert batches[0].images.shape == (4, 3, 224, 224) and int(batches[0].labels.max()) < 10


def test_an_epoch_continues_where_its_state_was_taken() -> None:
    loader = SyntheticLoader(4, 5, 10, CPU)
    wanted = list(loader.epoch(1))
    stream = loader.epoch(1)
    next(stream)
    state = loader.state_dict()
    other = SyntheticLoader(4, 5, 10, CPU)
    other.load_state_dict(state)
    rest = list(other.epoch(1))
    assert len(rest) == 4 and all(torch.equal(a.images, b.images) for a, b in zip(rest, wanted[1:], strict=True))
    assert len(list(other.epoch(1))) == 5


def test_an_unfinished_epoch_begins_anew() -> None:
    loader = SyntheticLoader(4, 5, 10, CPU)
    next(loader.epoch(0))
    assert len(list(loader.epoch(0))) == 5
    assert len(list(loader.epoch(0))) == 5


def test_ranks_have_batches_of_their_own() -> None:
    first, again, other = (next(SyntheticLoader(8, 1, 1000, CPU, rank=rank).epoch(0)) for rank in (0, 0, 1))
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    both = torch.stack([first.images.flatten(), other.images.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.01
