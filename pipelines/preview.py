"""An image of what the shards hold and of what the network will see.

P images, V views of each, H × W pixels, C colors.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from alexnet_fast.pipelines.augmentation import NUM_DRAWN
from alexnet_fast.pipelines.diagnosis import Shards, altered, problem_of
from alexnet_fast.pipelines.draws import DrawStream
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.normalization import as_tensors
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading
from alexnet_fast.tools import atomic
from alexnet_fast.tools.crop import CROP, center_crop
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.finalize import escaped
from alexnet_fast.tools.sharding.tar_writer import BrokenShardError, Sample, read_samples
from alexnet_fast.tools.storage.filesystem import open_file

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SHEET_COLUMNS, SHEET_ROWS = 12, 6
MOST_READ = 20_000
"""Samples looked at to fill the contact sheet."""
NUM_IMAGES, NUM_VIEWS = 4, 8
NUM_SHIFTS = 20_000
"""Color draws behind the histograms."""
GAP = 6
"""Pixels between the images of a mosaic."""
NAME_LENGTH = 17
"""Letters of a class name that fit below its image."""
INK = "#333333"
WIDTH = 14
"""Of the figure, in inches of 100 pixels."""
COLORS = ("#4c4c4c", "#c0504d", "#3f7fbf")
"""Of the three principal directions: light, then what is left."""


@dataclass(frozen=True)
class Views:
    """What the training graph made of a few images."""

    originals: Pixels
    """(P, H, W, C) as stored."""
    labels: npt.NDArray[np.int64]
    """(P,)"""
    images: Floats
    """(P, V, 224, 224, C): the network's input, mean subtracted."""
    corners: npt.NDArray[np.int64]
    """(P, V, 2): y, x of the crop's top left corner, in pixels of the original."""
    mirrored: npt.NDArray[np.bool_]
    """(P, V)"""
    shifts: Floats
    """(P, V, C): color added to every pixel, before the division."""


def contact_samples(dataset: Dataset, split: str, count: int) -> list[Sample]:
    """At most `count` samples, the same number of each class where there are enough; by label, then by place.

    Raises UserError where a tar is not what was written.
    """
    num_classes = len(dataset.classes)
    wanted = {int(label) for label in np.linspace(0, num_classes - 1, min(num_classes, count)).round()}
    room = dict.fromkeys(wanted, count // len(wanted))
    found: list[Sample] = []
    spare: list[Sample] = []
    """Others, for the places of classes that have too few."""
    num_read = 0
    for tar in dataset.tars(split):
        for sample in samples_of(tar):
            num_read += 1
            if room.get(sample.label, 0):
                room[sample.label] -= 1
                found.append(drawable(sample, tar, dataset))
            elif len(spare) < count:
                spare.append(drawable(sample, tar, dataset))
        if num_read >= MOST_READ or not any(room.values()):
            break
    found += spare[: count - len(found)]
    return sorted(found, key=lambda sample: sample.label)


def samples_of(tar: Path) -> Iterator[Sample]:
    """The samples of a tar; UserError, naming it, where it is not built as ours are."""
    with open_file(tar) as file:
        try:
            yield from read_samples(file)
        except BrokenShardError as error:
            raise altered(f"{tar}: {error}") from error


def drawable(sample: Sample, tar: Path, dataset: Dataset) -> Sample:
    """The sample; UserError where its image cannot be used, or its label is none of the classes."""
    problem, num_classes = problem_of(sample, dataset.image_options.size), len(dataset.classes)
    if not problem and sample.label >= num_classes:
        problem = f"{sample.stem} has label {sample.label}, of {counted(num_classes, 'class', 'classes')}"
    if problem:
        raise altered(f"{tar}: {problem}")
    return sample


def network_views(dataset: Dataset, split: str, *, num_images: int, num_views: int, seed: int = 0) -> Views:
    """Run the training graph on the split's first images, once for each view, in epochs 0, 1, … of `seed`."""
    num_images = min(num_images, dataset.split(split).shards[0].samples)
    cpu = torch.device("cpu")
    loader = TrainingLoader(dataset, split=split, batch_size=num_images, device=cpu, seed=seed)
    reading = Reading.of(
        dataset.tars(split)[:1], dataset.indexes(split)[:1], rank=0, num_ranks=1, shuffle_buffer=None, seed=0
    )
    views, corners, mirrored, shifts = [], [], [], []
    for epoch in range(num_views):
        normalization = loader.normalization(epoch, pca_jitter=True)
        run = PipelineRun(
            lambda normalization=normalization: normalization.graph(reading, with_draws=True),  # type: ignore[misc]
            Execution(num_images, cpu, num_threads=1, prefetch=1),
            num_batches=1,
            shards=Shards.of(dataset, split),
        )
        outputs = run.next()
        images, labels = normalization.normalize(as_tensors(normalization, outputs))
        corner, mirror, g, _, originals = outputs[-NUM_DRAWN:]
        views.append(images.numpy())
        corners.append(as_array(corner).astype(np.int64))
        mirrored.append(as_array(mirror).astype(bool))
        shifts.append(loader.epoch_augmentation(epoch, pca_jitter=True).shifts(as_array(g)))
    return Views(
        originals=as_array(originals),
        labels=labels.numpy().copy(),
        images=np.stack(views, axis=1),
        corners=np.stack(corners, axis=1),
        mirrored=np.stack(mirrored, axis=1),
        shifts=np.stack(shifts, axis=1),
    )


def color_shifts(dataset: Dataset, split: str, count: int, *, seed: int = 0) -> Floats:
    """(count, 3): color shifts as the training graph draws them, without reading an image."""
    cpu = torch.device("cpu")
    loader = TrainingLoader(dataset, split=split, batch_size=1, device=cpu, seed=seed)
    augmentation = loader.epoch_augmentation(0, pca_jitter=True)
    stream = DrawStream(augmentation.seed, augmentation.epoch, augmentation.rank, dataset.image_options.size)
    return augmentation.shifts(stream.at(0, count).g * np.float32(augmentation.strength))


def as_array(output: Any) -> Any:
    """A copy of a DALI output on the CPU: (N, …)."""
    return to_torch(output).numpy().copy()


def mosaic(images: list[Pixels], columns: int, side: int) -> Pixels:
    """(H, W, 3): the images, `side` pixels wide and high each, row by row on white."""
    step = side + GAP
    rows = -(-len(images) // columns)
    sheet = np.full((rows * step - GAP, columns * step - GAP, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        y, x = place // columns * step, place % columns * step
        sheet[y : y + side, x : x + side] = np.asarray(Image.fromarray(image).resize((side, side)))
    return sheet


def short(name: str, length: int) -> str:
    """A class name's first word or words: ImageNet lists synonyms, of which one is enough."""
    first = escaped(name.split(",")[0]).replace("_", " ")
    return first if len(first) <= length else first[: length - 1] + "…"


def draw_preview(dataset: Dataset, out: Path, *, split: str | None = None) -> None:
    """Draw contact sheet, network's views and color statistics of a data set; `out` ends in .png.

    Raises UserError where `out` cannot be written, or where the shards are not what the manifest says.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    split = split or ("train" if "train" in dataset.splits else next(iter(dataset.splits)))
    dataset.check_sizes()
    samples = contact_samples(dataset, split, SHEET_COLUMNS * SHEET_ROWS)
    views = network_views(dataset, split, num_images=NUM_IMAGES, num_views=NUM_VIEWS)
    shifts = color_shifts(dataset, split, NUM_SHIFTS)
    num_rows = -(-len(samples) // SHEET_COLUMNS)
    heights = [1.34 * num_rows + 0.4, 1.9 * len(views.originals) + 0.8, 3.1]
    figure: Any = plt.figure(figsize=(WIDTH, sum(heights)), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.06, wspace=0, hspace=0)
    parts: Any = figure.subfigures(3, 1, height_ratios=heights)
    draw_contact_sheet(parts[0], dataset, split, samples)
    draw_views(parts[1], dataset, views)
    draw_colors(parts[2], dataset, shifts)
    save(figure, out)
    plt.close(figure)


def draw_contact_sheet(part: Any, dataset: Dataset, split: str, samples: list[Sample]) -> None:
    """Images with their class names."""
    side = 108
    info = dataset.split(split)
    name = escaped(dataset.folder.absolute().name)
    title = f"{name}: {counted(info.samples, 'image')} in {split}, {counted(len(dataset.classes), 'class', 'classes')}"
    part.suptitle(title, parse_math=False)
    axes = part.subplots()
    images = [np.asarray(Image.open(io.BytesIO(sample.jpeg))) for sample in samples]
    step = side + GAP + 16  # room for the name
    rows = -(-len(images) // SHEET_COLUMNS)
    sheet = np.full((rows * step, SHEET_COLUMNS * (side + GAP) - GAP, 3), 255, dtype=np.uint8)
    for place, (sample, image) in enumerate(zip(samples, images, strict=True)):
        y, x = place // SHEET_COLUMNS * step, place % SHEET_COLUMNS * (side + GAP)
        sheet[y : y + side, x : x + side] = np.asarray(Image.fromarray(image).resize((side, side)))
        write(axes, x + side / 2, y + side + 9, class_name(dataset, sample.label), va="center")
    axes.imshow(sheet)
    axes.set_axis_off()


def class_name(dataset: Dataset, label: int) -> str:
    """As it fits below an image."""
    return short(dataset.classes[label].label, NAME_LENGTH)


def write(axes: Any, x: float, y: float, text: str, **placing: Any) -> None:
    """A small line of text, centered, taken as it is: a dollar sign in a class's name begins no formula."""
    axes.text(x, y, text, ha="center", fontsize=7.5, color=INK, parse_math=False, **placing)


def draw_views(part: Any, dataset: Dataset, views: Views) -> None:
    """Each image with its crops framed, then what the network got of it, the mean added back."""
    offsets = dataset.image_options.size - CROP + 1
    part.suptitle(
        f"what the network sees, some of {offsets}² · 2 = {2 * offsets**2:,} views of each image"
        f"{', where the paper says 2,048' if offsets == 33 else ''} (the mean added back for the eye)"
    )
    part.supxlabel(
        "above: the corner (x, y) of the random 224 crop, and whether it is mirrored; below: the color added (R G B)",
        fontsize=9,
        color=INK,
    )
    mean = center_mean(dataset)
    num_images, num_views = views.mirrored.shape
    all_axes = part.subplots(num_images, 1 + num_views, squeeze=False)
    for image, row in enumerate(all_axes):
        draw_crops(row[0], views.originals[image], views.corners[image])
        name = class_name(dataset, int(views.labels[image]))
        write(row[0], 0.5, 1.04, name, va="bottom", transform=row[0].transAxes)
        for view, axes in enumerate(row[1:]):
            seen = views.images[image, view] + mean
            axes.imshow(np.clip(seen, 0, 255).astype(np.uint8))
            y, x = views.corners[image, view]
            mirror = ", mirrored" if views.mirrored[image, view] else ""
            write(axes, 0.5, 1.04, f"({x}, {y}){mirror}", va="bottom", transform=axes.transAxes)
            shift = " ".join(f"{round(value):+d}".replace("-", "−") for value in views.shifts[image, view].tolist())
            write(axes, 0.5, -0.03, shift, va="top", transform=axes.transAxes)
        for axes in row:
            axes.set_axis_off()


def draw_crops(axes: Any, original: Pixels, corners: npt.NDArray[np.int64]) -> None:
    """An image with the frames of its crops, white on black so that they show on any ground."""
    axes.imshow(original)
    for y, x in corners:
        frame = np.array([[x, y], [x + CROP, y], [x + CROP, y + CROP], [x, y + CROP], [x, y]]) - 0.5
        axes.plot(*frame.T, color="black", linewidth=1.2, alpha=0.5)
        axes.plot(*frame.T, color="white", linewidth=0.5)


def center_mean(dataset: Dataset) -> Floats:
    """(224, 224, 3): the center of the mean image."""
    return center_crop(dataset.mean_image)


def draw_colors(part: Any, dataset: Dataset, shifts: Floats) -> None:
    """The mean image; the color shifts along each principal direction, beside their theory."""
    statistics = dataset.statistics
    part.suptitle(f"color: mean image, and {len(shifts):,} drawn shifts against their theory, N(0, (0.1·s)²)")
    all_axes = part.subplots(1, 4, width_ratios=[0.7, 1, 1, 1])
    all_axes[0].imshow(dataset.mean_image.astype(np.uint8))
    all_axes[0].set_axis_off()
    mean = ", ".join(f"{value:.1f}" for value in statistics.mean_rgb)
    all_axes[0].set_title(f"mean color ({mean})", fontsize=9, color=INK)
    along = shifts @ statistics.directions.T
    for place, axes in enumerate(all_axes[1:]):
        theory = 0.1 * statistics.standard_deviations[place]
        values = along[:, place]
        axes.hist(values, bins=60, density=True, color=COLORS[place], alpha=0.55)
        if theory > 0:
            x = np.linspace(-4 * theory, 4 * theory, 200)
            density = np.exp(-((x / theory) ** 2) / 2) / (theory * np.sqrt(2 * np.pi))
            axes.plot(x, density, color="black", linewidth=1)
        direction = ", ".join(f"{value:+.2f}" for value in statistics.directions[place])
        axes.set_title(f"along ({direction})\ndrawn {values.std():.2f}, theory {theory:.2f}", fontsize=9, color=INK)
        axes.set_yticks([])
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)


def save(figure: Any, out: Path) -> None:
    """Write a figure as PNG; UserError where that cannot be."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn instead, which says it all
            with atomic.writing(out) as file:
                figure.savefig(file, format="png")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}). Give --out another place.") from error
