"""Batches: the interface between the loaders and the trainer.

N images, V views of each, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

NUM_VIEWS = (1, 10)
"""Center view alone; or the paper's ten (section 4.1): four corners and center, each with its mirror."""


@dataclass(frozen=True)
class Batch:
    """One training batch; `images, labels = batch` unpacks it."""

    images: torch.Tensor
    """(N, 3, 224, 224) with channels-last strides, mean subtracted (values about -130..150), float32 or float16."""
    labels: torch.Tensor
    """(N,) int64, class index, on the device of `images`."""
    residual: torch.Tensor | None = None
    """(3, 224, 224) in the dtype of `images`: what is still to be subtracted from each of them.  None, nothing, unless
    the loader was asked to leave it."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.finished().images, self.labels))

    def finished(self) -> Batch:
        """With nothing left to subtract."""
        return self if self.residual is None else Batch(self.images - self.residual, self.labels)


@dataclass(frozen=True)
class EvaluationBatch:
    """One batch of evaluation images, from which views are cut when they are asked for.

    `images, labels = batch` takes the center view.
    """

    cut_view: Callable[[int], torch.Tensor]
    """View number 0..9 -> (N, 3, 224, 224) like `Batch.images`.  View 0 is the center view; 1..9 are the others."""
    labels: torch.Tensor
    """(N,) int64."""
    indices: torch.Tensor
    """(N,) int64: the image's place in its split, in the order of the shards; each place comes exactly once."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.cut_view(0), self.labels))

    def views(self, num_views: Literal[1, 10]) -> list[Callable[[], torch.Tensor]]:
        """Views are cut on demand, so that ten views are never in memory at once."""
        return [lambda number=number: self.cut_view(number) for number in range(num_views)]  # type: ignore[misc]
