"""Errors of one network, or of several averaged, over a split: center view, or the paper's ten (section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from alexnet_fast.config.precision import name_of
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.network.model import AlexNet, evaluating
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.tools.messages import counted

PLAIN_SECONDS = 30.0
"""Between two lines of progress."""
TOP = 5
"""Number of guesses of which one must be right for the second error."""


@dataclass(frozen=True)
class EvaluationResult:
    """Over all images of all replicas, each counted once."""

    num_samples: int
    loss: float
    """Mean cross-entropy of the averaged probabilities."""
    top1_error: float
    """Fraction of images (0..1) whose first guess was wrong; a tie counts as in `credit`."""
    top5_error: float | None
    """Fraction whose right class was not among the first five; None where there are no more classes than that."""
    precision: str = "fp32"
    """In which the networks computed: fp32, bf16, fp16 or fp64."""


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
            with evaluating(predictor.model):
                logits = predictor.model(images, weights=predictor.weights)
            probabilities = F.softmax(logits.float(), dim=1)
            total = probabilities if total is None else total + probabilities
    assert total is not None, "no predictors"
    return total / (num_views * len(predictors))


def evaluate(
    predictors: Sequence[Predictor],
    batches: Iterable[EvaluationBatch],
    *,
    num_views: Literal[1, 10],
    mesh: Mesh | None = None,
    observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
) -> EvaluationResult:
    """Measure errors and loss; every process calls it with its replica's share of the images and gets the same result.

    `observe` sees each batch's (N, classes) probabilities and (N,) labels.

    Nothing is brought to the host before the last batch.
    """
    mesh = mesh if mesh is not None else Mesh()
    device = next(predictors[0].model.parameters()).device
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for batch in batches:
            probabilities = average_probabilities(predictors, batch, num_views)
            if observe is not None:
                observe(probabilities, batch.labels)
            of_label = probabilities.gather(1, batch.labels[:, None])
            right = [credit(probabilities, of_label, places) for places in (1, TOP)]
            losses = -of_label.double().clamp_min(1e-30).log()
            totals += torch.stack([torch.ones_like(losses).sum(), losses.sum(), *(each.sum() for each in right)])
    samples, loss, top1, top5 = mesh.sum_over_replicas(totals).tolist()
    few = predictors[0].model.architecture.num_classes <= TOP
    top5_error = None if few else (samples - top5) / samples
    precision = name_of(next(iter(predictors[0].weights.values())).dtype)
    return EvaluationResult(int(samples), loss / samples, (samples - top1) / samples, top5_error, precision)


def credit(probabilities: torch.Tensor, of_label: torch.Tensor, places: int) -> torch.Tensor:
    """(N,) float64, 0..1: how much of each image counts as right, its label being among the first `places` classes.

    probabilities: (N, classes).  of_label: (N, 1), those of the right classes.  Classes with the label's probability
    share the places that are left, so that a network without an opinion is right as often as a guess.  NaN is never
    right.  Source: src/layer_kernels.cu:108-117, `kMultiSoftmaxCost`.
    """
    before = (~(probabilities <= of_label)).sum(1)  # those that are NaN are before it, and all are before a NaN
    equal = (probabilities == of_label).sum(1).clamp_min(1)
    return ((places - before).double() / equal).clamp(0, 1)


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
