"""Whole batches of a replica from the halves that its two ranks load."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch

from alexnet_fast.network.exchange import Exchange
from alexnet_fast.pipelines.batch import Batch


class HalfBatches:
    """Exchanges halves between the towers' processes; leaves batches alone where a process loads whole ones."""

    def __init__(self, exchange: Exchange, dtype: torch.dtype, *, tower: int, exchanged: bool) -> None:
        """`dtype`: in which the images are sent.  `exchanged`: whether each process loads half a batch."""
        self.exchange, self.dtype, self.tower, self.exchanged = exchange, dtype, tower, exchanged
        self.sent: deque[tuple[Batch, Callable[[], Batch]]] = deque()

    def send_ahead(self, batch: Batch) -> None:
        """Start to exchange the halves of a replica's batch, while earlier batches are trained on.

        Both towers' processes call it at the same place, and train on these batches in the same order.
        """
        self.sent.append((batch, self.bring_together(batch)))

    def whole_batch(self, batch: Batch) -> Batch:
        """The replica's images; waits for the other half of them."""
        if not self.sent:
            return self.bring_together(batch)()
        sent, arrived = self.sent.popleft()
        assert sent is batch, "another batch was sent ahead"
        return arrived()

    def bring_together(self, batch: Batch) -> Callable[[], Batch]:
        """Begin to exchange the halves that a replica's two processes loaded; what is returned waits for them."""
        if not self.exchanged:
            return lambda: batch  # conv1 brings them to the network's precision on its way
        own = (batch.finished().images.to(self.dtype), batch.labels)
        waits = [self.exchange.start(tensor, tensor.shape) for tensor in own]

        def arrived() -> Batch:
            peers = [wait() for wait in waits]
            pairs = zip(own, peers, strict=True) if self.tower == 0 else zip(peers, own, strict=True)
            return Batch(*(torch.cat(pair) for pair in pairs))

        return arrived


class BatchesAhead:
    """A process's batches; where towers are processes of their own, the halves are exchanged during the step before."""

    def __init__(self, batches: Iterator[Batch], halves: HalfBatches) -> None:
        self.batches, self.halves = batches, halves
        self.following: Batch | None = None

    def next(self, *, ahead: bool) -> Batch:
        """The next one; `ahead`: the one after may be taken from the loader too, and its exchange started."""
        batch = self.take() if self.following is None else self.following
        self.following = self.take() if ahead and self.halves.exchanged else None
        return batch

    def take(self) -> Batch:
        batch = next(self.batches)
        if self.halves.exchanged:
            self.halves.send_ahead(batch)
        return batch
