"""A training step captured once as a CUDA graph and replayed: one launch instead of hundreds.

Launches are most of a small batch's step.  With several processes the captured step holds its collectives too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.kernels.residual import subtract
from alexnet_fast.pipelines.batch import Batch

WARM_UP = 3
"""Steps before the capture, in which libraries choose their kernels and processes open their connections."""

Compute = Callable[[Batch, DropoutKey], tuple[torch.Tensor, torch.Tensor]]


class CapturedStep:
    """Replays a captured function; returns what the function would return.

    The function must not synchronize, and must read what changes between steps from the device's memory.
    """

    def __init__(self, compute: Compute, batch: Batch, dropout: DropoutKey) -> None:
        """Call the function WARM_UP times with this batch, which is finished, then capture it.

        To be called while nothing else uses the GPU: a thread of DALI that waits for the device makes a capture fail.
        """
        # One stream for all: torch keeps freed memory for the stream that used it, a step's worth for each.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                compute(batch, dropout)
        torch.cuda.current_stream().wait_stream(stream)
        self.batch = Batch(batch.images.clone(), batch.labels.clone())
        self.key, self.first_row = dropout.key.clone(), dropout.first_row
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.loss, self.errors = compute(self.batch, DropoutKey(self.key, self.first_row))

    def fits(self, batch: Batch, dropout: DropoutKey) -> bool:
        """Whether it was captured for such a batch."""
        own, other = self.batch.images, batch.images
        return own.shape == other.shape and own.dtype == other.dtype and self.first_row == dropout.first_row

    def __call__(self, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        subtract(batch.images, batch.residual, self.batch.images)
        self.batch.labels.copy_(batch.labels)
        self.key.copy_(dropout.key)
        self.graph.replay()
        return self.loss.clone(), self.errors.clone()
