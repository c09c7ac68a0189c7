"""A training step recorded once and replayed: one launch instead of hundreds, which at small batches is most of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.tools.errors import UserError

WARM_UP = 3
"""Steps before the recording, in which libraries choose their kernels; they train as any other."""

Compute = Callable[[Batch, DropoutKey], tuple[torch.Tensor, torch.Tensor]]


class Recording:
    """Calls a function itself at first, and after `WARM_UP` calls replays what was recorded of it.

    The function must wait for nothing, and read whatever changes from step to step from the device's memory.  A batch
    of another size than the recorded one is computed without the recording.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        # One for all: torch keeps freed memory for the stream that used it, a step's worth for each.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, compute: Compute, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.warm_up(compute, batch, dropout)
        if self.graph is None:
            self.record(compute, batch, dropout)
        if batch.images.shape != self.batch.images.shape:
            return compute(batch, dropout)
        assert self.graph is not None
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        self.key.copy_(dropout.key)
        self.graph.replay()
        return self.loss.clone(), self.errors.clone()

    def warm_up(self, compute: Compute, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        """On a stream of its own, as a recording wants it: the one that it will be recorded on."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = compute(batch, dropout)
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def record(self, compute: Compute, batch: Batch, dropout: DropoutKey) -> None:
        """Nothing is computed: what the function launches is written down."""
        self.batch = Batch(batch.images.clone(), batch.labels.clone())
        self.key = dropout.key.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: DALI's threads go on using the GPU meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.loss, self.errors = compute(self.batch, DropoutKey(self.key, dropout.first_row))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                f"the step could not be recorded on this GPU ({str(error).splitlines()[0]}): "
                "train without the recording, --set cuda_graph=false"
            ) from error
        self.graph = graph
