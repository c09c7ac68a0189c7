"""Epochs and evaluations of very large data sets in segments, each read by a DALI reader of its own.

DALI's reader holds about 300 bytes for every sample of the indexes that it is given, and parses all of them before its
first batch: 4.3 GB and half a minute for 14 M images.  So it is given at most `SEGMENT_SAMPLES` or so at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from alexnet_fast.pipelines.seeds import derive_seed, shard_order, shard_order_within_parts

SEGMENT_SAMPLES = 2_000_000
"""Of a segment, at most, on all ranks together and to the next shard: ImageNet's 1.28 M images are one."""
SEGMENT_BATCHES = 100
"""Least batches of a segment on every rank: what does not fill a batch at its end is below one percent."""


@dataclass(frozen=True)
class Segment:
    """Consecutive shards of an epoch's order."""

    number: int
    shards: tuple[int, ...]
    """Their places in the split, in the order in which they are read."""
    num_samples: int
    """In these shards."""
    start: int
    """Samples of each rank's epoch that come before it."""
    end: int
    """The same, of those after its last batch."""


@dataclass(frozen=True)
class Epochs:
    """How one split's epochs are cut."""

    sizes: tuple[int, ...]
    """Samples of each shard."""
    batch_size: int
    num_ranks: int
    seed: int
    in_order: bool = False
    """One rank reads the shards as they stand, in one segment, to the last sample."""
    same_samples: bool = False
    """Whether each rank has the same samples in every epoch."""

    @cached_property
    def num_segments(self) -> int:
        """Of every epoch; a shard that is larger than a segment leaves some out."""
        total = sum(self.sizes)
        if self.in_order:
            return 1
        return max(1, min(-(-total // SEGMENT_SAMPLES), total // (SEGMENT_BATCHES * self.batch_size * self.num_ranks)))

    @cached_property
    def num_batches(self) -> int:
        """Of every epoch, on every rank, however its shards fall into segments."""
        at_once = self.batch_size * self.num_ranks
        total = sum(self.sizes)
        if self.in_order:
            return -(-total // at_once)
        # At the end of each segment at most this many do not fill a batch on all ranks.
        return (total - (self.num_segments - 1) * (at_once - 1)) // at_once

    def segments(self, epoch: int) -> list[Segment]:
        """The epoch's, in order, the same on every rank.  Together they give `num_batches`."""
        found: list[Segment] = []
        batches = 0
        for shards in self._shards(epoch):
            num_samples = sum(self.sizes[place] for place in shards)
            own = num_samples // (self.batch_size * self.num_ranks)
            before, batches = batches, self.num_batches if self.in_order else min(batches + own, self.num_batches)
            if batches > before:
                ends = (before * self.batch_size, batches * self.batch_size)
                found.append(Segment(len(found), tuple(shards), num_samples, *ends))
        return found

    def stream(self, rank: int) -> dict[str, str]:
        """What decides the samples of a rank, besides the seed, name -> value."""
        kept = ", always the same samples" if self.same_samples else ""
        segments = {"segments": str(self.num_segments)} if self.num_segments > 1 else {}
        return {"rank": f"{rank} of {self.num_ranks}{kept}", **segments}

    def _shards(self, epoch: int) -> list[list[int]]:
        """Of each segment."""
        as_they_stand = list(range(len(self.sizes)))
        if self.in_order:
            return [as_they_stand]
        if not self.same_samples:
            return self._cut(shard_order(len(self.sizes), self.seed, epoch))
        # Whatever changes from epoch to epoch does so within a segment's parts.
        segments = []
        for shards in self._cut(as_they_stand):
            sizes = [self.sizes[place] for place in shards]
            order = shard_order_within_parts(sizes, self.num_ranks, self.seed, epoch)
            segments.append([shards[place] for place in order])
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, epoch, None, "segment order")))
        return [segments[place] for place in generator.permutation(len(segments))]

    def _cut(self, order: Sequence[int]) -> list[list[int]]:
        """An order in parts of about as many samples each."""
        total = sum(self.sizes)
        parts: list[list[int]] = [[] for _ in range(self.num_segments)]
        sizes = [self.sizes[place] for place in order]
        for place, size, end in zip(order, sizes, accumulate(sizes), strict=True):
            parts[(end - size) * self.num_segments // total].append(place)
        return [part for part in parts if part]  # a shard may be larger than a segment


@dataclass(frozen=True)
class OrderedSegment:
    """Consecutive samples in the order of the shards, and the shards that hold them."""

    shards: range
    """Their places in the split."""
    num_samples: int
    """In these shards."""
    offset: int
    """Samples of these shards that come before the segment's first one."""
    samples: range
    """Their places in the split."""


def ordered_segments(sizes: Sequence[int], samples: range, batch_size: int) -> list[OrderedSegment]:
    """These samples of a split in segments of whole batches, but for the last batch.

    sizes: samples of each of the split's shards.
    """
    ends = list(accumulate(sizes))
    length = max(1, SEGMENT_SAMPLES // batch_size) * batch_size
    found = []
    for start in range(samples.start, samples.stop, length):
        own = range(start, min(start + length, samples.stop))
        shards = range(bisect_right(ends, own.start), bisect_left(ends, own.stop) + 1)
        before = ends[shards.start] - sizes[shards.start]
        found.append(OrderedSegment(shards, ends[shards.stop - 1] - before, own.start - before, own))
    return found
