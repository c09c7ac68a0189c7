"""Errors over a split against a computation in numpy and float64: own views, own softmax, own ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch

from alexnet_fast.inference.evaluation import Predictor, credit, evaluate, format_errors, with_progress
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.pipelines.evaluation_loader import view_cutter

NUM_IMAGES = 7


def predictor_of(seed: int, num_classes: int) -> Predictor:
    """A small network with lively values: the initialization alone would make every logit tiny."""
    model = AlexNet(small(NETS["167"], 16, image_size=224, num_classes=num_classes), seed=seed).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4 if name.endswith("weight") else 1)
    return Predictor(model, model.working_weights(torch.float32))


def images_and_mean() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (NUM_IMAGES, 16, 16, 3), np.uint8)
    return coarse.repeat(16, 1).repeat(16, 2), generator.uniform(90, 140, (224, 224, 3)).astype(np.float32)


def batches(pixels: np.ndarray, mean: np.ndarray, labels: torch.Tensor) -> list[EvaluationBatch]:
    """Two, of unequal size."""
    parts = [torch.arange(5), torch.arange(5, NUM_IMAGES)]
    images = torch.from_numpy(pixels)
    cut = [view_cutter(images[part], torch.from_numpy(mean), torch.float32) for part in parts]
    return [EvaluationBatch(cutter, labels[part], part) for cutter, part in zip(cut, parts, strict=True)]


def expected_probabilities(predictors: list[Predictor], pixels: np.ndarray, mean: np.ndarray, views: int) -> np.ndarray:
    """(N, classes) float64, image by image and view by view."""
    corners = [(16, 16)] if views == 1 else [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    rows = []
    for image in pixels.astype(np.float64):
        answers = []
        for y, x in corners:
            crop = image[y : y + 224, x : x + 224]
            for view in [crop] if views == 1 else [crop, crop[:, ::-1]]:
                images = torch.from_numpy((view - mean).transpose(2, 0, 1)[None].copy())
                for predictor in predictors:
                    with torch.inference_mode():
                        logits = predictor.model(images).numpy()[0]
                    powers = np.exp(logits - logits.max())
                    answers.append(powers / powers.sum())
        rows.append(np.mean(answers, axis=0))
    return np.array(rows)


@pytest.mark.parametrize(("views", "nets"), [(1, 1), (10, 1), (10, 2)])
def test_errors_and_loss_are_numpys(views: Literal[1, 10], nets: int) -> None:
    predictors = [predictor_of(seed, 12) for seed in range(nets)]
    pixels, mean = images_and_mean()
    expected = expected_probabilities(predictors, pixels, mean, views)
    order = np.argsort(-expected, axis=1)
    # The right class is put in these places: 3 of 7 first guesses right, 5 of 7 among the first five.
    labels = order[np.arange(NUM_IMAGES), [0, 4, 0, 5, 11, 0, 2]]
    result = evaluate(predictors, batches(pixels, mean, torch.from_numpy(labels)), num_views=views)
    assert expected.std(axis=0).max() > 0.01
    assert result.num_samples == NUM_IMAGES
    assert (result.top1_error, result.top5_error) == (4 / 7, 2 / 7)
    assert result.loss == pytest.approx(-np.log(expected[np.arange(NUM_IMAGES), labels]).mean(), rel=1e-4)


class Slow(list[EvaluationBatch]):
    """As a loader whose every batch takes ten seconds, on a clock of its own."""

    num_samples = 1280

    def __init__(self, clock: list[float], num_batches: int) -> None:
        labels = torch.zeros(1, dtype=torch.int64)
        super().__init__([EvaluationBatch(lambda number: labels, labels, labels)] * num_batches)
        self.clock = clock

    def __iter__(self) -> Iterator[EvaluationBatch]:
        for batch in super().__iter__():
            self.clock[0] += 10
            yield batch


@pytest.mark.parametrize("at_once", [True, False])
def test_a_long_evaluation_says_how_far_it_is(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = [0.0], list[str]()
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    assert len(list(with_progress(Slow(clock, 10), 10, lines.append, at_once=at_once))) == 10
    first = ["evaluating 1,280 images, ten views each"] if at_once else []
    assert lines[: len(first) + 1] == [*first, "evaluating 1,280 images, ten views each: 20% done, 0:02:00 left"]
    assert len(lines) == len(first) + 3


@pytest.mark.parametrize("num_classes", [3, 5, 6])
def test_up_to_five_classes_have_no_top5_error(num_classes: int) -> None:
    pixels, mean = images_and_mean()
    labels = torch.arange(NUM_IMAGES) % num_classes
    result = evaluate([predictor_of(0, num_classes)], batches(pixels, mean, labels), num_views=1)
    assert (result.top5_error is None) == (num_classes < 6) and 0 < result.top1_error < 1
    assert ("top-5" in format_errors(result.top1_error, result.top5_error)) == (num_classes == 6)


@pytest.mark.parametrize(("value", "errors"), [(0.0, (11 / 12, 7 / 12)), (float("nan"), (1.0, 1.0))])
def test_a_network_without_an_opinion_is_right_as_a_guess(value: float, errors: tuple[float, float]) -> None:
    """All classes tied: one of 12 counts as right; NaN never does."""
    predictor = predictor_of(0, 12)
    blank = {name: torch.full_like(weight, value) for name, weight in predictor.weights.items()}
    pixels, mean = images_and_mean()
    labels = torch.zeros(NUM_IMAGES, dtype=torch.int64)
    result = evaluate([Predictor(predictor.model, blank)], batches(pixels, mean, labels), num_views=1)
    assert (result.top1_error, result.top5_error) == pytest.approx(errors)


def test_ties_count_fractionally() -> None:
    """Against the rule in plain Python (src/layer_kernels.cu:108-117), on probabilities with many ties and NaN."""
    generator = np.random.default_rng(1)
    probabilities = generator.integers(0, 4, (200, 8)) / 4
    probabilities[::17, 3] = np.nan
    labels = generator.integers(0, 8, 200)

    def expected(row: np.ndarray, label: int, places: int) -> float:
        if np.isnan(row[label]):
            return 0.0
        before = sum(1 for p in row if p > row[label] or np.isnan(p))
        equal = sum(1 for p in row if p == row[label])
        left = places - before
        return 0.0 if left <= 0 else 1.0 if equal <= left else left / equal

    given = torch.from_numpy(probabilities)
    of_label = given.gather(1, torch.from_numpy(labels)[:, None])
    for places in (1, 5):
        wanted = [expected(row, label, places) for row, label in zip(probabilities, labels, strict=True)]
        assert credit(given, of_label, places).tolist() == wanted
        assert sum(0 < value < 1 for value in wanted) > 0


def test_the_precision_of_the_computation_is_reported() -> None:
    predictor = predictor_of(0, 12)
    pixels, mean = images_and_mean()
    labels = torch.zeros(NUM_IMAGES, dtype=torch.int64)
    half = Predictor(predictor.model, predictor.model.working_weights(torch.bfloat16))
    found = [evaluate([one], batches(pixels, mean, labels), num_views=1).precision for one in (predictor, half)]
    assert found == ["fp32", "bf16"]
