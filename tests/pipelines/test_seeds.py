"""Orders of shards: permutations, the same on every rank; and those that leave each rank its samples."""

from __future__ import annotations

from itertools import accumulate

import pytest

from alexnet_fast.pipelines.seeds import part_of_rank, shard_order, shard_order_within_parts

UNEVEN = [25, 3, 40, 17, 17, 1, 30, 22, 9, 9, 50, 12, 28, 5, 33, 19, 2, 25]


def samples_in_order(sizes: list[int], order: list[int]) -> list[int]:
    """The samples, numbered as the shards stand, in the order in which they are read."""
    starts = [end - size for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return [starts[shard] + place for shard in order for place in range(sizes[shard])]


@pytest.mark.parametrize("sizes", [UNEVEN, [25, 25, 9], [7] * 40, [1000]])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_each_rank_keeps_its_samples(sizes: list[int], num_ranks: int) -> None:
    total = sum(sizes)
    for epoch in range(6):
        order = shard_order_within_parts(sizes, num_ranks, seed=0, epoch=epoch)
        assert sorted(order) == list(range(len(sizes)))
        samples = samples_in_order(sizes, order)
        for rank in range(num_ranks):
            part = part_of_rank(total, rank, num_ranks)
            assert set(samples[part.start : part.stop]) == set(part)


def test_the_full_permutation_moves_samples_between_ranks() -> None:
    part = part_of_rank(sum(UNEVEN), 0, 2)
    assert set(samples_in_order(UNEVEN, shard_order(len(UNEVEN), 0, 1))[part.start : part.stop]) != set(part)


def test_the_order_within_parts_changes_with_epoch_and_seed() -> None:
    orders = {
        tuple(shard_order_within_parts(UNEVEN, 2, seed, epoch)) for seed, epoch in [(0, 0), (0, 1), (0, 2), (1, 0)]
    }
    assert len(orders) == 4
    for place in range(4):  # in the first part's whole shards each comes first at some time
        assert place in {shard_order_within_parts(UNEVEN, 2, 0, epoch)[0] for epoch in range(60)}


def test_a_shard_that_reaches_over_a_border_stays() -> None:
    # Parts end at 20: the shard of samples 15..25 belongs to both.
    for epoch in range(10):
        order = shard_order_within_parts([5, 5, 5, 10, 5, 5, 5], 2, seed=0, epoch=epoch)
        assert order[3] == 3 and set(order[:3]) == {0, 1, 2} and set(order[4:]) == {4, 5, 6}
