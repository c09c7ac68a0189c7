"""Seeds: all randomness of a stream is derived from the recipe's seed, the epoch and the rank.

Any epoch can be started from its number alone, and no two epochs or ranks share draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

import numpy as np


def derive_seed(seed: int, epoch: int, rank: int | None, purpose: str) -> int:
    """A seed in 0..2^63-1 for one purpose ("corner", "mirror", …); `rank` None where all ranks must draw alike."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{'all' if rank is None else rank}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def shard_order(num_shards: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch reads the shards: a permutation, the same on every rank."""
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, epoch, None, "shard order")))
    return [int(place) for place in generator.permutation(num_shards)]


def shard_order_within_parts(sizes: Sequence[int], num_ranks: int, seed: int, epoch: int) -> list[int]:
    """An order of shards of `sizes` samples that leaves each rank its samples; the same on every rank.

    Shards that lie entirely in one rank's part are permuted among themselves; those that cross a boundary stay.  The
    fewer whole shards a part has, the less its order changes.
    """
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, epoch, None, "shard order")))
    ends = list(accumulate(sizes))
    order = list(range(len(sizes)))
    for rank in range(num_ranks):
        part = part_of_rank(ends[-1], rank, num_ranks)
        inside = [place for place, end in enumerate(ends) if part.start <= end - sizes[place] < end <= part.stop]
        for place, shard in zip(inside, generator.permutation(inside), strict=True):
            order[place] = int(shard)
    return order


def part_of_rank(num_samples: int, rank: int, num_ranks: int) -> range:
    """The places, in reading order, that DALI's reader gives to a rank: consecutive, disjoint, covering all."""
    return range(num_samples * rank // num_ranks, num_samples * (rank + 1) // num_ranks)
