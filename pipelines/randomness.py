"""Everything random in a stream follows from the recipe's seed, the epoch and the rank, and from nothing else.

So an epoch can be begun from its number alone, and no epoch and no rank shares draws with another.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, epoch: int, rank: int | None, purpose: str) -> int:
    """A seed in 0..2^63-1 for one purpose ("crop x", "noise", …); `rank` None where all ranks must draw alike."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{'all' if rank is None else rank}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def shard_order(num_shards: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch reads the shards: a permutation, the same on every rank."""
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, epoch, None, "shard order")))
    return [int(place) for place in generator.permutation(num_shards)]


def part_of_rank(num_samples: int, rank: int, num_ranks: int) -> range:
    """The places, in reading order, that DALI's reader gives to a rank: consecutive, disjoint, covering all."""
    return range(num_samples * rank // num_ranks, num_samples * (rank + 1) // num_ranks)
