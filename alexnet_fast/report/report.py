"""`report`: everything that a run, or a checkpoint with a data set, has to show, gathered for the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.distributed.devices import use_device
from alexnet_fast.inference.features import layer_output
from alexnet_fast.inference.load import Trained, mean_to_subtract, trained_from
from alexnet_fast.inference.neighbors import nearest
from alexnet_fast.inference.predict import prepare, read
from alexnet_fast.pipelines.evaluation_loader import EvaluationLoader
from alexnet_fast.report import charts, kernels
from alexnet_fast.report.facts import facts_of, result_rows, state_of, summary_of
from alexnet_fast.report.images import Stored, center_views, read_places, thumbnail
from alexnet_fast.report.layers import Maps, Occlusion, layer_maps, occlusion_map
from alexnet_fast.report.page import check_writable, render, write_page
from alexnet_fast.report.predictions import (
    Predictions,
    calibration,
    choose_examples,
    class_errors,
    confusion_matrix,
    first_part,
    predict_split,
    worst_confusions,
)
from alexnet_fast.report.subject import Subject, find_subject
from alexnet_fast.runs.evaluations import evaluations
from alexnet_fast.runs.figures import conv1_before, conv1_history
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError

NUM_EXAMPLES = 8
NUM_NEIGHBORS = 6
NUM_QUERIES = 5
BATCH = 128
MOST_CLASSES_IN_MATRIX = 40
SHOWN_CLASSES = 20
"""Best and worst ones, where there are too many for all."""

HALF_SURE = 0.75
"""Probability of the image that the layers are shown with, as near as can be."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Guess:
    """One of an image's best classes."""

    label: str
    probability: float
    is_true: bool


@dataclass(frozen=True)
class Example:
    """A held-out image and what the network says of it."""

    image: str
    label: str
    right: bool
    guesses: list[Guess]


@dataclass(frozen=True)
class Neighbor:
    image: str
    label: str
    distance: float
    same: bool
    """Whether its class is the query's."""


@dataclass(frozen=True)
class Query:
    image: str
    label: str
    neighbors: list[Neighbor]


@dataclass(frozen=True)
class Look:
    """What the layers see of one image."""

    image: str
    caption: str
    label: str
    maps: list[Maps]
    occlusion: Occlusion


@dataclass
class Parts:
    """The page's sections; empty ones are explained in `missing`."""

    missing: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    base_images: int = 0
    """Training images among which neighbors were looked for."""
    train_images: int = 0
    look: Look | None = None
    predictions: Predictions | None = None
    confusions: list[dict[str, Any]] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)
    """Name -> its specification; None where there is nothing to draw."""
    calibration_error: float = 0.0
    sheets: list[kernels.Sheet] = field(default_factory=list)
    difference_sheets: list[kernels.Sheet] = field(default_factory=list)
    film: list[kernels.Frame] = field(default_factory=list)
    verdict: str = ""


def write_report(
    path: Path,
    data: Path | None,
    out: Path | None,
    *,
    image: Path | None = None,
    most: int = 10_000,
    device: str | None = None,
    say: Say,
) -> Path:
    """Write the page of a run, or of a checkpoint with a data set; the file.

    data: the shards; None: those that the run was trained on, if they are still there.  image: the file that the
    layers are shown with; None: a held-out image.  most: images of each split that are looked at; the page says so.
    Raises UserError, UsageError.
    """
    place = use_device(device)
    subject = find_subject(path, data, place)
    file = out if out is not None else (path if path.is_dir() else path.parent) / "report.html"
    # What is wrong with the arguments is found before minutes of work.
    check_writable(file)
    asked = own_pixels(image, subject.trained) if image is not None and subject.trained is not None else None
    parts = Parts(charts=curve_charts(subject))
    if subject.trained is None:
        parts.missing.append(
            "No checkpoint was saved yet: nothing is known of the network. Make the report again later."
        )
    else:
        add_kernels(parts, subject, subject.trained)
        if subject.dataset is not None:
            add_predictions(parts, subject.trained, subject.dataset, subject.split, most, say)
        else:
            parts.missing.append(subject.without_data)
        add_look(parts, subject, asked, place)
    write_page(file, render("report.html.j2", **page_values(subject, parts)))
    return file


def page_values(subject: Subject, parts: Parts) -> dict[str, Any]:
    """What the template asks for."""
    return {
        "title": subject.path.absolute().name,
        "summary": summary_of(subject),
        "state": state_of(subject),
        "results": result_rows(subject),
        "facts": facts_of(subject),
        "parts": parts,
    }


# ------------------------------------------------------------------ curves


def curve_charts(subject: Subject) -> dict[str, Any]:
    """Loss, error, learning rates, throughput and waiting, over the epochs."""
    train = [line for line in subject.metrics if line["kind"] == "train"]

    def series(name: str, lines: list[dict[str, Any]], key: str) -> charts.Series:
        return charts.Series(name, [line["epoch"] for line in lines], [line.get(key) for line in lines])

    def held_out(key: str) -> list[charts.Series]:
        return [series(way.curve, lines, key) for way, lines in evaluations(subject.metrics).items()]

    made: dict[str, Any] = dict.fromkeys(("confusion", "classes", "calibration")) | {
        "loss": charts.curves(
            [series("training, with dropout and random crops", train, "loss"), *held_out("loss")],
            x_title="epoch",
            y_title="cross-entropy",
        ),
        "error": charts.curves(
            [series("training, with dropout and random crops", train, "error"), *held_out("top1_error")],
            x_title="epoch",
            y_title="top-1 error",
            percent=True,
        ),
        "lr": charts.curves(
            [series("weights", train, "lr_weights"), series("biases", train, "lr_biases")],
            x_title="epoch",
            y_title="learning rate",
            log=True,
        ),
        "throughput": charts.curves([series("img/s", train, "images_per_s")], x_title="epoch", y_title="img/s"),
        "wait": charts.curves(
            [series("waiting", train, "data_wait")],
            x_title="epoch",
            y_title="share of time waiting for data",
            percent=True,
        ),
    }
    return made


# ------------------------------------------------------------------ kernels


def add_kernels(parts: Parts, subject: Subject, trained: Trained) -> None:
    """Figure 3, the same less the initial weights, and the filmstrip."""
    checkpoint = trained.checkpoint
    towers = checkpoint.architecture().num_towers
    conv1 = checkpoint.model["conv1.weight"].numpy()
    parts.sheets = kernels.sheets(conv1, towers)
    parts.verdict = kernels.verdict(parts.sheets)
    history = {} if subject.folder is None else conv1_history(subject.folder)
    initial = conv1_before(history, checkpoint.recipe, len(checkpoint.classes))
    if initial is not None:
        parts.difference_sheets = kernels.sheets(conv1 - initial, towers)
        parts.film = kernels.filmstrip(history, initial, towers)


# ------------------------------------------------------------------ held-out images


def add_predictions(parts: Parts, trained: Trained, dataset: Dataset, split: str, most: int, say: Say) -> None:
    """Examples, neighbors, confusions and calibration: all that needs held-out images, those of `split`."""
    if split not in dataset.splits:
        missing = f"The data set has no validation split ({split}): nothing is said of held-out images."
        parts.missing.append(missing + " Shard with --val-fraction 0.1." * (split == "val"))
        return
    dtype = next(iter(trained.predictor.weights.values())).dtype
    predictions = parts.predictions = predict_split(trained, dataset, split, dtype, most, say)
    labels = shown_labels(trained)
    chosen = choose_examples(predictions, NUM_EXAMPLES)
    confusions = worst_confusions(predictions)
    stored = read_places(dataset, split, [*chosen, *(item.example for item in confusions)])
    parts.examples = [example_of(place, stored[place], predictions, labels) for place in chosen]
    parts.confusions = [
        {
            "label": labels[item.label],
            "guess": labels[item.guess],
            "count": item.count,
            "share": item.share,
            "image": thumbnail(stored[item.example].pixels),
        }
        for item in confusions
    ]
    add_statistics(parts, predictions, labels)
    add_neighbors(parts, trained, dataset, [stored[place] for place in spread_out(chosen)], labels, most, say)


def shown_labels(trained: Trained) -> list[str]:
    """Of the classes, each different: two classes of ImageNet are called crane."""
    labels = trained.labels
    return [f"{label} ({name})" if labels.count(label) > 1 else label for (name, label) in trained.checkpoint.classes]


def spread_out(chosen: list[int]) -> list[int]:
    """Of the examples, right ones first, as many as there are rows of neighbors, some of both kinds."""
    return [
        chosen[place]
        for place in np.unique(np.linspace(0, len(chosen) - 1, min(NUM_QUERIES, len(chosen))).round().astype(int))
    ]


def example_of(place: int, stored: Stored, predictions: Predictions, labels: list[str]) -> Example:
    """Figure 4, left: five bars, the true class marked; it follows as a sixth where it is not among them."""
    label = int(predictions.labels[place])
    pairs = zip(predictions.guesses[place].tolist(), predictions.probabilities[place].tolist(), strict=True)
    guesses = [Guess(labels[guess], probability, guess == label) for guess, probability in pairs]
    if not any(guess.is_true for guess in guesses):
        guesses.append(Guess(labels[label], float(predictions.of_label[place]), True))
    return Example(thumbnail(stored.pixels), labels[label], bool(predictions.right[place]), guesses)


def add_statistics(parts: Parts, predictions: Predictions, labels: list[str]) -> None:
    """Confusion matrix, per-class errors, calibration."""
    errors = class_errors(predictions)
    sorted_errors = sorted(errors, key=lambda item: -item.error)
    worst = [{"class": labels[item.label], "error": item.error, "images": item.images} for item in sorted_errors]
    if len(worst) > MOST_CLASSES_IN_MATRIX:
        half = SHOWN_CLASSES // 2
        worst = [*worst[:half], *worst[-half:]]
    parts.charts["classes"] = charts.bars(worst, label="class", value="error", title="top-1 error", extra=["images"])
    if predictions.num_classes <= MOST_CLASSES_IN_MATRIX:
        matrix = confusion_matrix(predictions)
        cells = [
            {
                "label": labels[i],
                "guess": labels[j],
                "count": int(matrix[i, j]),
                "share": matrix[i, j] / max(1, matrix[i].sum()),
            }
            for i, j in np.argwhere(matrix > 0).tolist()
        ]
        parts.charts["confusion"] = charts.heat_map(cells, labels)
    bins, parts.calibration_error = calibration(predictions)
    parts.charts["calibration"] = charts.calibration_chart(
        [{"confidence": item.confidence, "accuracy": item.accuracy, "images": item.images} for item in bins]
    )


def add_neighbors(
    parts: Parts, trained: Trained, dataset: Dataset, stored: list[Stored], labels: list[str], most: int, say: Say
) -> None:
    """Figure 4, right: the training images with the nearest features of the last hidden layer."""
    parts.train_images = dataset.split("train").samples if "train" in dataset.splits else 0
    num_parts, looked_at = first_part(parts.train_images, most)
    if looked_at < NUM_NEIGHBORS:
        parts.missing.append(
            f"Neighbors are {NUM_NEIGHBORS} training images, and {looked_at} of {parts.train_images} were to be looked "
            "at: none are shown."
        )
        return
    dtype = next(iter(trained.predictor.weights.values())).dtype
    device = next(trained.predictor.model.parameters()).device
    queries = layer_output(trained.predictor, center_views([one.pixels for one in stored], trained, dtype), "fc7")
    loader = EvaluationLoader(
        dataset, split="train", batch_size=BATCH, device=device, dtype=dtype,
        mean=mean_to_subtract(trained.checkpoint.mean), rank=0, num_ranks=num_parts,
    )  # fmt: skip
    say(f"looking for neighbors among {looked_at:,} of {parts.train_images:,} training images")
    base = torch.cat([layer_output(trained.predictor, batch.cut_view(0), "fc7").half().cpu() for batch in loader])
    parts.base_images = len(base)
    distances, rows = nearest(queries.cpu().numpy(), base.numpy(), NUM_NEIGHBORS, device=device)
    found = read_places(dataset, "train", rows.flatten().tolist())
    for query, own_distances, own_rows in zip(stored, distances, rows, strict=True):
        neighbors = [
            Neighbor(thumbnail(found[row].pixels), labels[found[row].label], distance, found[row].label == query.label)
            for row, distance in zip(own_rows.tolist(), own_distances.tolist(), strict=True)
        ]
        parts.queries.append(Query(thumbnail(query.pixels), labels[query.label], neighbors))


# ------------------------------------------------------------------ layers


@dataclass(frozen=True)
class OwnImage:
    """An image that the user wants to see the layers with."""

    name: str
    pixels: npt.NDArray[np.uint8]
    """(size, size, 3), as shards hold it."""


def own_pixels(image: Path, trained: Trained) -> OwnImage:
    """Read it and make it ready as the training images were; UserError where that cannot be."""
    pixels, problem = prepare(str(image), read(image), trained.checkpoint.image_options)
    if pixels is None:
        raise UserError(f"--image {image}: {problem}")
    return OwnImage(image.name, pixels)


def add_look(parts: Parts, subject: Subject, asked: OwnImage | None, device: torch.device) -> None:
    """Maps and occlusion for one image, in float32: the one asked for, else a held-out one.

    The weights come from memory: a run that is still training may have deleted the checkpoint's file.
    """
    assert subject.trained is not None
    file, checkpoint = subject.trained.file, subject.trained.checkpoint
    trained = trained_from(file, checkpoint, device, choose_precision(device, "fp32"))
    labels = shown_labels(trained)
    if asked is not None:
        pixels, caption, label = asked.pixels, asked.name, None
    elif subject.dataset is not None and parts.predictions is not None:
        # Of a certain answer hiding a part changes nothing.
        doubtful = np.abs(np.where(parts.predictions.right, parts.predictions.of_label, 2) - HALF_SURE)
        chosen = int(doubtful.argmin())
        pixels = read_places(subject.dataset, subject.split, [chosen])[chosen].pixels
        label = int(parts.predictions.labels[chosen])
        is_right = bool(parts.predictions.right[chosen])
        caption = f"a held-out image that the network names {'right' if is_right else 'wrong'}"
    else:
        return
    view = center_views([pixels], trained, torch.float32)
    if label is None:
        with torch.inference_mode():
            label = int(trained.predictor.model(view, weights=trained.predictor.weights).argmax())
    crop = (pixels.shape[0] - view.shape[-1]) // 2
    seen = pixels[crop : crop + view.shape[-1], crop : crop + view.shape[-1]]
    parts.look = Look(
        thumbnail(seen, view.shape[-1]),
        caption,
        labels[label],
        layer_maps(trained.predictor, view),
        occlusion_map(trained.predictor, view, label),
    )
