"""Errors of one network, or of several averaged, over a split: center view or the paper's ten (section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.network.model import AlexNet
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.tools.messages import counted

PLAIN_SECONDS = 30.0
"""Between two lines of progress."""
TOP = 5
"""Guesses of which one must be right for the second error."""


@dataclass(frozen=True)
class EvaluationResult:
    """Over all images of all replicas, each counted once."""

    num_samples: int
    loss: float
    """Mean cross-entropy of the averaged probabilities."""
    top1_error: float
    """Share of images (0..1) whose first guess was wrong."""
    top5_error: float | None
    """Share whose right class was not among the first five; None where there are no more classes than that."""


@dataclass(frozen=True)
class Predictor:
    """A network with the weights it computes with."""

    model: AlexNet
    weights: Mapping[str, torch.Tensor]
    """In the dtype of the images, as `model.working_weights(dtype)` gives them."""


def average_probabilities(
    predictors: Sequence[Predictor], batch: EvaluationBatch, num_views: Literal[1, 10]
) -> torch.Tensor:
    """(N, classes) float32: softmax of each view and each network, averaged."""
    total: torch.Tensor | None = None
    for view in batch.views(num_views):
        images = view()
        for predictor in predictors:
            logits = predictor.model(images, weights=predictor.weights)
            probabilities = F.softmax(logits.float(), dim=1)
            total = probabilities if total is None else total + probabilities
    assert total is not None, "nobody to ask"
    return total / (num_views * len(predictors))


def evaluate(
    predictors: Sequence[Predictor],
    batches: Iterable[EvaluationBatch],
    *,
    num_views: Literal[1, 10],
    mesh: Mesh | None = None,
) -> EvaluationResult:
    """Count errors; every process calls it with its replica's share of the images, and gets the same result.

    Nothing is brought to the host before the last batch.
    """
    mesh = mesh if mesh is not None else Mesh()
    device = next(predictors[0].model.parameters()).device
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for batch in batches:
            probabilities = average_probabilities(predictors, batch, num_views)
            of_label = probabilities.gather(1, batch.labels[:, None])
            # Its place among the classes, from 1; equal ones count against it, and so does NaN.
            rank = (~(probabilities < of_label)).sum(1)
            counts += torch.stack([torch.ones_like(rank).sum(), (rank > 1).sum(), (rank > TOP).sum()])
            loss -= of_label.double().clamp_min(1e-30).log().sum()
    counts, loss = mesh.sum_over_replicas(counts), mesh.sum_over_replicas(loss)
    samples, top1, top5 = counts.tolist()
    few = predictors[0].model.architecture.num_classes <= TOP
    return EvaluationResult(samples, float(loss) / samples, top1 / samples, None if few else top5 / samples)


class Batches(Protocol):
    """What is known of an `EvaluationLoader` before it is read."""

    num_samples: int
    """Of all replicas."""

    def __iter__(self) -> Iterator[EvaluationBatch]: ...

    def __len__(self) -> int: ...


def with_progress(
    batches: Batches, num_views: Literal[1, 10], say: Callable[[str], None], *, at_once: bool
) -> Iterator[EvaluationBatch]:
    """The batches; meanwhile a line now and then of how far it is, and one before the first if `at_once`."""
    what = f"{counted(batches.num_samples, 'image')}, {'ten views each' if num_views == 10 else 'center view'}"
    if at_once:
        say(f"evaluating {what}")
    begun = last = time.monotonic()
    for done, batch in enumerate(batches):
        now = time.monotonic()
        if done and now - last >= PLAIN_SECONDS:
            last = now
            left = timedelta(seconds=int((now - begun) / done * (len(batches) - done)))
            say(f"evaluating {what}: {done / len(batches):.0%} done, {left} left")
        yield batch


def format_errors(top1_error: float, top5_error: float | None) -> str:
    """12.34% top-1, 1.23% top-5"""
    return f"{top1_error:.2%} top-1" + ("" if top5_error is None else f", {top5_error:.2%} top-5")
