"""The training graph against numpy: given what chance drew, every pixel is what the formula says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from alexnet_fast.pipelines.augmentation import EpochAugmentation, draw, training_graph
from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.sharding.tar_writer import read_samples

CPU = torch.device("cpu")


def stored_pixels(dataset: Dataset, split: str = "train") -> list[tuple[np.ndarray[Any, Any], int]]:
    """(pixels as Pillow decodes them, label) of every sample, in order."""
    found = []
    for tar in dataset.tars(split):
        with tar.open("rb") as file:
            found += [(np.asarray(Image.open(io.BytesIO(sample.jpeg))), sample.label) for sample in read_samples(file)]
    return found


def run_with_draws(dataset: Dataset, augmentation: EpochAugmentation, batch_size: int) -> list[np.ndarray[Any, Any]]:
    """One batch of the graph in the order of the shards, with its draws."""
    reading = Reading.of(
        dataset.tars("train"), dataset.indexes("train"), rank=0, num_ranks=1, shuffle_buffer=None, seed=0
    )
    run = PipelineRun(
        lambda: training_graph(
            reading, Decoding("cpu", dataset.image_options.size), augmentation, types.FLOAT, with_draws=True
        ),
        Execution(batch_size, CPU, 1, 1),
        1,
    )
    images, digits, corner, mirror, g, _, pixels = run.next()
    return [to_torch(output).numpy().copy() for output in (images, digits, corner, mirror, g, pixels)]


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.0])
def test_pixels_follow_the_formula_bit_for_bit(tiny_dataset: Dataset, strength: float) -> None:
    statistics = tiny_dataset.statistics
    divisor = np.float32(1 + strength)
    augmentation = EpochAugmentation(
        mean=statistics.mean_rgb.astype(np.float32),
        directions=(statistics.standard_deviations[:, None] * statistics.directions).T.astype(np.float32),
        strength=strength,
        divisor=float(divisor),
        seed=5,
        epoch=2,
        rank=0,
    )
    count = 40
    images, digits, corner, mirror, g, pixels = run_with_draws(tiny_dataset, augmentation, count)
    stored = stored_pixels(tiny_dataset)[:count]
    for place, (expected, label) in enumerate(stored):
        assert np.array_equal(pixels[place], expected)
        assert bytes(digits[place]) == b"%05d" % label
        top, left = corner[place]
        view = expected[top : top + CROP, left : left + CROP]
        if mirror[place]:
            view = view[:, ::-1]
        shift = augmentation.directions * g[place]
        mean = augmentation.mean - (shift[:, 0] + shift[:, 1] + shift[:, 2])
        # Division by a number is multiplication by its reciprocal, in DALI too.
        wanted = (view.astype(np.float32) - mean) * (np.float32(1) / divisor)
        assert wanted.dtype == np.float32
        assert np.array_equal(images[place], wanted)
    if strength == 0:
        assert not g.any()


def test_crops_mirrors_and_colors_have_their_distributions(tiny_dataset: Dataset) -> None:
    statistics = tiny_dataset.statistics
    directions = (statistics.standard_deviations[:, None] * statistics.directions).T.astype(np.float32)
    augmentation = EpochAugmentation(
        statistics.mean_rgb.astype(np.float32), directions, strength=0.1, divisor=1.1, seed=1, epoch=0, rank=0
    )
    count, size = 33_000, tiny_dataset.image_options.size
    run = PipelineRun(lambda: tuple(vars(draw(augmentation, size)).values()), Execution(count, CPU, 1, 1), 1)
    corner, mirror, g = (to_torch(output).numpy() for output in run.next())
    pairs = np.zeros((33, 33), int)
    np.add.at(pairs, tuple(corner.T), 1)
    for counts in (pairs.sum(0), pairs.sum(1), pairs.ravel()):  # one draw gives both: they are independent too
        assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.binomtest(int(mirror.sum()), count).pvalue > 1e-4
    along = augmentation.shifts(g) @ statistics.directions.T
    for direction in range(3):
        sigma = 0.1 * statistics.standard_deviations[direction]
        assert stats.kstest(along[:, direction], "norm", args=(0, sigma)).pvalue > 1e-4
    correlation = np.corrcoef(np.column_stack([corner, mirror, along]).T)
    assert np.abs(correlation - np.eye(6)).max() < 0.03


def test_batches_are_channels_last_and_without_noise_undivided(tiny_dataset: Dataset) -> None:
    with TrainingLoader(tiny_dataset, batch_size=16, device=CPU, seed=0, mean="rgb") as loader:
        noisy = next(iter(loader.epoch(0)))
        plain = next(iter(loader.epoch(0, pca_jitter=False)))
    assert noisy.images.is_contiguous(memory_format=torch.channels_last)
    assert noisy.images.shape == (16, 3, CROP, CROP) and noisy.labels.dtype == torch.int64
    assert torch.equal(noisy.labels, plain.labels)
    restored = plain.images + torch.from_numpy(tiny_dataset.statistics.mean_rgb).float()[:, None, None]
    assert (restored - restored.round()).abs().max() < 1e-4  # whole numbers again: nothing was divided
    again = noisy.images * 1.1
    spread = (again - plain.images).flatten(2)
    assert spread.std(2).max() < 1e-3  # the same shift at every pixel
    assert spread.mean(2).std() > 0.5


def test_half_precision(tiny_dataset: Dataset) -> None:
    with TrainingLoader(tiny_dataset, batch_size=4, device=CPU, seed=0, dtype=torch.float16) as loader:
        half = next(iter(loader.epoch(0))).images
    with TrainingLoader(tiny_dataset, batch_size=4, device=CPU, seed=0) as loader:
        whole = next(iter(loader.epoch(0))).images
    assert torch.equal(half, whole.half())


def test_shards_beside_one_another(tiny_shards: Path) -> None:
    names = sorted(file.name for file in tiny_shards.iterdir() if file.suffix == ".tar")
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar", "val-000001.tar"]
