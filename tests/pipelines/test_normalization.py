"""The network's input from decoded pixels: a CPU's way against the formula, DALI's against a CPU's."""

from __future__ import annotations

import gc
import threading
from typing import Any, Literal

import numpy as np
import pytest
import torch

from alexnet_fast.pipelines.augmentation import NUM_DRAWN, Augmentation, EpochAugmentation
from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.normalization import (
    SHARED,
    CpuWorkers,
    Normalization,
    NormalizationInDali,
    NormalizationOnCpu,
    as_tensors,
    normalization_of,
)
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset

CPU = torch.device("cpu")
COUNT = 13


def augmentation_of(dataset: Dataset, strength: float) -> EpochAugmentation:
    with TrainingLoader(
        dataset, batch_size=1, device=CPU, seed=5, augmentation=Augmentation(pca_jitter=strength)
    ) as loader:
        return loader.epoch_augmentation(2, pca_jitter=True)


def cpu_normalization(
    dataset: Dataset, strength: float, mean: Literal["image", "rgb"], threads: int = 2
) -> Normalization:
    return normalization_of(
        dataset, augmentation_of(dataset, strength), mean=mean, decoding=Decoding("cpu", dataset.image_options.size),
        device=CPU, dtype=torch.float32, workers=CpuWorkers(threads),
    )  # fmt: skip


def finished(dataset: Dataset, normalization: Normalization) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Images of the first COUNT images, and what was drawn for them."""
    reading = Reading.of(
        dataset.tars("train"), dataset.indexes("train"), rank=0, num_ranks=1, shuffle_buffer=None, seed=0
    )
    run = PipelineRun(lambda: normalization.graph(reading, with_draws=True), Execution(COUNT, CPU, 1, 1), 1)
    outputs = run.next()
    images, labels = normalization.normalize(as_tensors(normalization, outputs))
    assert labels.shape == (COUNT,) and labels.dtype == torch.int64
    drawn = [to_torch(output).numpy().copy() for place, output in enumerate(outputs[-NUM_DRAWN:]) if place != 3]
    return images.numpy().copy(), drawn


def mean_of(dataset: Dataset, mean: str) -> np.ndarray[Any, Any]:
    if mean == "rgb":
        return dataset.statistics.mean_rgb.astype(np.float32)
    start = (dataset.image_options.size - CROP) // 2
    return dataset.mean_image[start : start + CROP, start : start + CROP]


@pytest.mark.parametrize("mean", ["image", "rgb"])
@pytest.mark.parametrize(("strength", "threads"), [(0.1, 2), (0.5, 1), (0.0, 3)])
def test_every_pixel_is_what_the_formula_says(
    tiny_dataset: Dataset, strength: float, threads: int, mean: Literal["image", "rgb"]
) -> None:
    images, (corner, mirror, g, pixels) = finished(
        tiny_dataset, cpu_normalization(tiny_dataset, strength, mean, threads)
    )
    shift, scale = augmentation_of(tiny_dataset, strength).shifts(g), np.float32(1) / np.float32(1 + strength)
    assert {0, 1} == set(mirror.ravel().tolist())
    for place in range(COUNT):
        top, left = corner[place]
        view = pixels[place, top : top + CROP, left : left + CROP]
        if mirror[place]:
            view = view[:, ::-1]
        wanted = (view.astype(np.float32) - mean_of(tiny_dataset, mean) + shift[place]) * scale
        assert wanted.dtype == images.dtype == np.float32
        assert np.array_equal(images[place], wanted)


@pytest.mark.parametrize("mean", ["image", "rgb"])
@pytest.mark.parametrize("strength", [0.1, 0.0])
def test_dalis_way_is_a_cpus_but_for_the_last_bits(
    tiny_dataset: Dataset, strength: float, mean: Literal["image", "rgb"]
) -> None:
    """What runs on a GPU, on DALI's CPU backend: the same draws, the mean image subtracted after the mean color."""
    augmentation = augmentation_of(tiny_dataset, strength)
    residual = None
    if mean == "image":
        residual = torch.from_numpy((mean_of(tiny_dataset, mean) - augmentation.mean) * np.float32(augmentation.scale))
        assert residual.abs().max() > 1  # else there would be nothing to see
    decoding = Decoding("cpu", tiny_dataset.image_options.size)
    theirs, _ = finished(tiny_dataset, NormalizationInDali(augmentation, decoding, residual, types.FLOAT))
    ours, _ = finished(tiny_dataset, cpu_normalization(tiny_dataset, strength, mean))
    assert np.abs(theirs - ours).max() < 1e-4


def test_each_device_has_its_way(tiny_dataset: Dataset) -> None:
    """On a machine without a GPU the meta device stands for one: no kernel runs."""
    choices: dict[str, Any] = {
        "mean": "image", "decoding": Decoding("mixed", 256), "dtype": torch.float16, "workers": CpuWorkers(1),
    }  # fmt: skip
    augmentation = augmentation_of(tiny_dataset, 0.1)
    there = normalization_of(tiny_dataset, augmentation, device=torch.device("meta"), **choices)
    assert isinstance(there, NormalizationInDali) and there.dtype == types.FLOAT16
    assert there.residual is not None
    assert there.residual.shape == (CROP, CROP, 3) and there.residual.dtype == torch.float16
    assert isinstance(normalization_of(tiny_dataset, augmentation, device=CPU, **choices), NormalizationOnCpu)


def test_a_buffer_is_used_again_when_nobody_holds_it() -> None:
    workers = CpuWorkers(1)
    first = torch.from_numpy(workers.empty((2, 3)))
    place = first.data_ptr()
    view = first.permute(1, 0)[1:]
    del first
    gc.collect()
    second = torch.from_numpy(workers.empty((2, 3)))
    assert second.data_ptr() != place  # the view still shows the first one's memory
    del view
    assert workers.empty((2, 4)).__array_interface__["data"][0] != place
    assert workers.empty((2, 3)).__array_interface__["data"][0] == place


def test_batches_that_are_kept_stay_what_they_were(tiny_dataset: Dataset) -> None:
    with TrainingLoader(tiny_dataset, batch_size=4, device=CPU, seed=0) as loader:
        kept, copies = [], []
        for batch in loader.epoch(0):
            kept.append(batch.images)
            copies.append(batch.images.clone())
    assert len(kept) > 10
    assert all(torch.equal(*pair) for pair in zip(kept, copies, strict=True))


def test_an_epoch_needs_few_buffers(tiny_dataset: Dataset) -> None:
    with TrainingLoader(tiny_dataset, batch_size=4, device=CPU, seed=0) as loader:
        places = {batch.images.data_ptr() for number in range(3) for batch in loader.epoch(number)}
    assert len(places) <= 3  # in use, being made, and still in the hands of a thread


def test_cpu_workers_share_their_work_and_report_what_went_wrong() -> None:
    workers = CpuWorkers(3)
    count = 6 * SHARED + 1
    done: list[int] = []
    workers.map_slices(lambda some: done.extend(range(count)[some]), count)
    assert sorted(done) == list(range(count))
    with pytest.raises(ZeroDivisionError):
        workers.map_slices(lambda some: done.append(1 // (some.start - 4 * SHARED)), count)
    threads = threading.active_count()
    workers.close()
    assert threading.active_count() == threads - 3
    workers.map_slices(lambda some: done.append(0), 1)
    workers.close()
