"""What the network says of the held-out images, and what follows from it: confusions, calibration, examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.inference.evaluation import average_probabilities, credit
from alexnet_fast.inference.load import Trained, mean_to_subtract
from alexnet_fast.pipelines.evaluation_loader import EvaluationLoader
from alexnet_fast.tools.dataset import Dataset

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

TOP = 5
BATCH = 128
BINS = 10
"""Of confidence, in the calibration."""
WORST = 12
"""Confusions, and classes, that are listed."""


@dataclass(frozen=True)
class Predictions:
    """Center view, in the order of the shards."""

    labels: Ints
    """(N,)"""
    guesses: Ints
    """(N, 5 or fewer) classes, the most probable first."""
    probabilities: Floats
    """Of the guesses."""
    of_label: Floats
    """(N,) probability of the true class."""
    credit: Floats
    """(N,) 0..1, how much of each counts as right: in part where its class ties with another for the first place."""
    num_classes: int
    available: int
    """Images of the whole split; more than N where only the first were looked at."""

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the true class alone is the first guess."""
        right: npt.NDArray[np.bool_] = self.credit == 1
        return right

    @property
    def top1_error(self) -> float:
        return float(1 - self.credit.mean())


def first_part(available: int, most: int) -> tuple[int, int]:
    """(equal parts of a split of which none has more than `most` images, images of the first)."""
    parts = max(1, -(-available // most))
    return parts, available // parts


def predict_split(
    trained: Trained, dataset: Dataset, split: str, dtype: torch.dtype, most: int, say: Callable[[str], None]
) -> Predictions:
    """The first images of a split, at most `most`: shards are shuffled, so they are a random sample of it."""
    device = next(trained.predictor.model.parameters()).device
    available = dataset.split(split).samples
    parts, looked_at = first_part(available, most)
    loader = EvaluationLoader(
        dataset, split=split, batch_size=BATCH, device=device, dtype=dtype,
        mean=mean_to_subtract(trained.checkpoint.mean), rank=0, num_ranks=parts,
    )  # fmt: skip
    say(f"looking at {looked_at:,} of {available:,} images in {split}")
    collected: list[list[npt.NDArray[Any]]] = [[], [], [], [], []]
    with torch.inference_mode():
        for batch in loader:
            probabilities = average_probabilities([trained.predictor], batch, 1)
            best = probabilities.topk(min(TOP, probabilities.shape[1]))
            of_label = probabilities.gather(1, batch.labels[:, None])
            found = (batch.labels, best.indices, best.values, of_label[:, 0], credit(probabilities, of_label, 1))
            for place, tensor in zip(collected, found, strict=True):
                place.append(tensor.cpu().numpy())
    labels, guesses, values, of_labels, credited = (np.concatenate(place) for place in collected)
    return Predictions(labels, guesses, values, of_labels, credited, len(dataset.classes), available)


def confusion_matrix(predictions: Predictions) -> Ints:
    """(classes, classes): row the true class, column the first guess."""
    size = predictions.num_classes
    flat = predictions.labels * size + predictions.guesses[:, 0]
    return np.bincount(flat, minlength=size * size).reshape(size, size)


@dataclass(frozen=True)
class ClassError:
    """Of one class."""

    label: int
    images: int
    errors: float
    """A sum of `1 - credit`."""

    @property
    def error(self) -> float:
        return self.errors / self.images


def class_errors(predictions: Predictions) -> list[ClassError]:
    """Of the classes that have images, by label."""
    images = np.bincount(predictions.labels, minlength=predictions.num_classes)
    wrong = np.bincount(predictions.labels, weights=1 - predictions.credit, minlength=predictions.num_classes)
    return [ClassError(label, int(images[label]), float(wrong[label])) for label in np.flatnonzero(images).tolist()]


@dataclass(frozen=True)
class Confusion:
    """One class taken for another."""

    label: int
    guess: int
    count: int
    share: float
    """Of the class's images."""
    example: int
    """The image of which the network was surest, by its place."""


def worst_confusions(predictions: Predictions) -> list[Confusion]:
    """The pairs that occur most often."""
    matrix = confusion_matrix(predictions)
    images = matrix.sum(1)
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    found = []
    for flat in np.argsort(-off, axis=None, kind="stable")[:WORST].tolist():
        label, guess = divmod(flat, predictions.num_classes)
        count = int(off[label, guess])
        if count == 0:
            break
        own = np.flatnonzero((predictions.labels == label) & (predictions.guesses[:, 0] == guess))
        example = int(own[np.argmax(predictions.probabilities[own, 0])])
        found.append(Confusion(label, guess, count, count / int(images[label]), example))
    return found


@dataclass(frozen=True)
class Bin:
    """The images whose first guess has a probability in a range."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean probability of the first guess."""
    accuracy: float


def calibration(predictions: Predictions) -> tuple[list[Bin], float]:
    """(bins that hold images, expected calibration error: mean |accuracy − confidence|, weighted by images)."""
    confidence = predictions.probabilities[:, 0].astype(np.float64)
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in range(BINS):
        own = number == place
        if own.any():
            mean, accuracy = float(confidence[own].mean()), float(predictions.credit[own].mean())
            bins.append(Bin(place / BINS, (place + 1) / BINS, int(own.sum()), mean, accuracy))
    error = sum(item.images * abs(item.accuracy - item.confidence) for item in bins) / len(confidence)
    return bins, error


def choose_examples(predictions: Predictions, count: int) -> list[int]:
    """Places of right and wrong answers, half of each where there are enough, of as many classes as can be.

    Drawn with a fixed seed, not picked by their confidence: a typical handful, and the same in each report.
    """
    order = np.random.default_rng(2012).permutation(len(predictions.labels))
    right = [int(place) for place in order if predictions.right[place]]
    wrong = [int(place) for place in order if not predictions.right[place]]
    half = count // 2
    num_wrong = min(len(wrong), max(half, count - len(right)))
    chosen_right = of_many_classes(right, predictions.labels, count - num_wrong)
    return [*chosen_right, *of_many_classes(wrong, predictions.labels, num_wrong)]


def of_many_classes(places: list[int], labels: Ints, count: int) -> list[int]:
    """The first `count`, one of each class before the second of any."""
    seen: dict[int, int] = {}
    rounds = []
    for position, place in enumerate(places):
        label = int(labels[place])
        rounds.append((seen.get(label, 0), position, place))
        seen[label] = seen.get(label, 0) + 1
    return [place for *_, place in sorted(rounds)[:count]]
