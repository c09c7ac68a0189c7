"""Synthetic batches, made once, for measuring the network's speed without a data pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoded_cache import CachePlan, LoaderMemory
from alexnet_fast.pipelines.seeds import derive_seed
from alexnet_fast.tools.crop import CROP

NUM_DISTINCT = 2
"""Distinct batches, returned alternately.  Two, so that no result can be cached from one step to the next."""


class SyntheticLoader:
    """`num_batches` batches an epoch of random pixels with random labels with the interface of `TrainingLoader`."""

    def __init__(
        self,
        batch_size: int,
        num_batches: int,
        num_classes: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        """Every `rank` has batches of its own."""
        self.batch_size, self.dtype = batch_size, dtype
        self.num_batches = num_batches
        self.memory = LoaderMemory()
        self.cache: CachePlan | None = None
        self._epoch, self._given = 0, 0
        self._resuming = False
        generator = torch.Generator().manual_seed(derive_seed(seed, 0, rank, "synthetic"))
        self._batches = []
        for _ in range(min(NUM_DISTINCT, num_batches)):
            # The standard deviation of photographs' pixels, about 64 of 255.
            images_NHWC = 64 * torch.randn(batch_size, CROP, CROP, 3, generator=generator)
            labels = torch.randint(num_classes, (batch_size,), generator=generator)
            images = images_NHWC.to(device, dtype).permute(0, 3, 1, 2)
            self._batches.append(Batch(images, labels.to(device)))

    def epoch(self, number: int, *, pca_jitter: bool = True) -> Iterator[Batch]:
        """The same batches in every epoch; after `load_state_dict`, those that are left.  `pca_jitter` is ignored."""
        if not self._resuming or self._epoch != number:
            self._epoch, self._given = number, 0
        self._resuming = False
        return self._rest()

    def _rest(self) -> Iterator[Batch]:
        for place in range(self._given, self.num_batches):
            self._given = place + 1
            yield self._batches[place % len(self._batches)]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._given = state["epoch"], state["batches"]
        self._resuming = True

    def pause(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> SyntheticLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
