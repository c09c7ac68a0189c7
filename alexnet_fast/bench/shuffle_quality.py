"""How well an epoch is shuffled: equal labels beside one another, and places that return from epoch to epoch."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.pipeline_run import PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading, labels_of, read_samples, source_of


@dataclass(frozen=True)
class ShuffleQuality:
    """Of several epochs, beside what perfect permutations would give on average."""

    label_repeats: float
    """Share of neighbors (0..1) with the same label."""
    label_repeats_by_chance: float
    correlation: float
    """|ρ| (0..1) between a sample's places in two epochs, averaged over all pairs of epochs."""
    correlation_by_chance: float

    def describe(self) -> str:
        """One line for people."""
        return (
            f"shuffle: {self.label_repeats:.2%} of neighbors have the same label (by chance "
            f"{self.label_repeats_by_chance:.2%}); correlation of places between epochs {self.correlation:.3f} "
            f"(by chance {self.correlation_by_chance:.3f})"
        )


@dataclass(frozen=True)
class _Order:
    """One epoch's samples in their order."""

    labels: npt.NDArray[np.int64]
    """(N,)"""
    sources: npt.NDArray[np.bytes_]
    """(N,): tar:offset:member"""


def measure_shuffle(loader: TrainingLoader, num_epochs: int = 3) -> ShuffleQuality:
    """Of the rank's first `num_epochs` (2 or more) epochs; labels are read, no image is decoded."""
    orders = [_order_of(loader, epoch) for epoch in range(num_epochs)]
    repeats = [float((order.labels[1:] == order.labels[:-1]).mean()) for order in orders]
    counts = np.unique(orders[0].labels, return_counts=True)[1].astype(np.float64)
    num_samples = len(orders[0].labels)
    correlations = [_correlation(one, other) for one, other in combinations(orders, 2)]
    return ShuffleQuality(
        label_repeats=float(np.mean(repeats)),
        label_repeats_by_chance=float((counts * (counts - 1)).sum() / (num_samples * (num_samples - 1))),
        correlation=float(np.mean(correlations)),
        # ρ of a random permutation is nearly normal with this standard deviation; √(2/π) of it is its mean size.
        correlation_by_chance=float(np.sqrt(2 / np.pi / (num_samples - 1))),
    )


def _correlation(one: _Order, other: _Order) -> float:
    """|ρ| between the places of the samples that both epochs have: each drops another remainder."""
    _, places, other_places = np.intersect1d(one.sources, other.sources, return_indices=True)
    return abs(float(np.corrcoef(places, other_places)[0, 1]))


def _order_of(loader: TrainingLoader, epoch: int) -> _Order:
    """By the loader's own reader."""
    labels, sources = [], []
    for segment in loader._epochs.segments(epoch):
        reading = loader._reading(epoch, segment)

        def graph(reading: Reading = reading) -> tuple[Any, ...]:
            jpeg, digits = read_samples(reading)
            return digits, source_of(jpeg)

        num_batches = (segment.end - segment.start) // loader.batch_size
        with closing(PipelineRun(graph, loader._execution, num_batches)) as run:
            for _ in range(num_batches):
                digits, source = run.next()
                labels.append(labels_of(to_torch(digits)).numpy())
                sources += [bytes(np.array(source.at(place))) for place in range(loader.batch_size)]
    return _Order(np.concatenate(labels), np.array(sources))
