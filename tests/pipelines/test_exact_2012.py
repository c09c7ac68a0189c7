"""The stream of 2012: fixed order, one crop and mirror for 32 consecutive images, the short last batch; resumable."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.pipelines.augmentation import Augmentation
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.loader import CROPPED_ALIKE, TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.tar_writer import read_samples

CPU = torch.device("cpu")
CROP = 224
SAMPLES = 59


def exact_loader(dataset: Dataset, **choices: Any) -> TrainingLoader:
    defaults: dict[str, Any] = {"batch_size": 32, "device": CPU, "seed": 3, "exact_2012": True}
    return TrainingLoader(dataset, **(defaults | choices))


def stored(dataset: Dataset) -> list[tuple[np.ndarray, int]]:
    """(pixels, label) of every sample as Pillow decodes them, in the order of the shards."""
    found = []
    for tar in dataset.tars("train"):
        with tar.open("rb") as file:
            found += [(np.asarray(Image.open(io.BytesIO(sample.jpeg))), sample.label) for sample in read_samples(file)]
    return found


def place_of(view: np.ndarray, pixels: np.ndarray) -> tuple[int, int, bool] | None:
    """(top, left, mirrored) of a view of these pixels; None: it is none of them."""
    for mirrored in (False, True):
        wanted = view[:, ::-1] if mirrored else view
        for top in range(pixels.shape[0] - CROP + 1):
            for left in np.flatnonzero((pixels[top, : -CROP + 1] == wanted[0, 0]).all(1)):
                if np.array_equal(pixels[top : top + CROP, left : left + CROP], wanted):
                    return top, int(left), mirrored
    return None


def pixels_of(batch: Batch, dataset: Dataset) -> np.ndarray:
    """(N, 224, 224, 3) uint8: what was cut, the mean color put back."""
    restored = batch.images.permute(0, 2, 3, 1) + torch.from_numpy(dataset.statistics.mean_rgb).float()
    assert (restored - restored.round()).abs().max() < 1e-3
    return restored.round().numpy().astype(np.uint8)


def test_crops_and_mirrors_are_shared_by_32_images_in_the_shards_order(tiny_dataset: Dataset) -> None:
    images = stored(tiny_dataset)
    groups: list[list[tuple[int, int, bool]]] = []
    for epoch in (0, 1, 2):
        with exact_loader(tiny_dataset, mean="rgb", augmentation=Augmentation(pca_jitter=0)) as loader:
            batches = list(loader.epoch(epoch))
        assert [len(batch.labels) for batch in batches] == [32, 27]
        assert [label for batch in batches for label in batch.labels.tolist()] == [label for _, label in images]
        views = np.concatenate([pixels_of(batch, tiny_dataset) for batch in batches])
        places = [place_of(view, pixels) for view, (pixels, _) in zip(views, images, strict=True)]
        assert None not in places, "not this image"
        groups += [places[start : start + CROPPED_ALIKE] for start in range(0, SAMPLES, CROPPED_ALIKE)]  # type: ignore[misc]
    assert [len(set(group)) for group in groups] == [1] * 6
    assert len({group[0] for group in groups}) == 6  # each group, and each epoch, has another crop


@pytest.mark.parametrize(("batch_size", "decoded"), [(7, 1), (7, 28), (20, 60), (59, 1)])
def test_the_stream_is_the_same_in_batches_of_any_size(tiny_dataset: Dataset, batch_size: int, decoded: int) -> None:
    with exact_loader(tiny_dataset) as loader:
        expected = torch.cat([batch.images for batch in loader.epoch(1)])
    with exact_loader(tiny_dataset, batch_size=batch_size, options=LoaderOptions(decode_batch=decoded)) as loader:
        found = torch.cat([batch.images for batch in loader.epoch(1)])
    assert torch.equal(found, expected)


def test_the_jitter_stays_each_images_own(tiny_dataset: Dataset) -> None:
    with exact_loader(tiny_dataset, mean="rgb", augmentation=Augmentation(pca_jitter_divisor=False)) as loader:
        jittered = next(iter(loader.epoch(0))).images
        plain = next(iter(loader.epoch(0, pca_jitter=False))).images
    shifts = (jittered - plain).flatten(2)
    assert shifts.std(2).max() < 1e-3
    assert len({tuple(row) for row in shifts.mean(2).round(decimals=1).tolist()}) == 32


@pytest.mark.parametrize("epoch", [0, 5])
def test_a_resumed_epoch_continues_with_the_same_images(tiny_dataset: Dataset, epoch: int) -> None:
    with exact_loader(tiny_dataset) as loader:
        whole = [(batch.images.clone(), batch.labels.clone()) for batch in loader.epoch(epoch)]
    with exact_loader(tiny_dataset) as loader:
        batches = loader.epoch(epoch)
        next(batches)
        state = loader.state_dict()
    with exact_loader(tiny_dataset, options=LoaderOptions(num_threads=2, prefetch=3)) as loader:
        loader.load_state_dict(state)
        rest = [(batch.images.clone(), batch.labels.clone()) for batch in loader.epoch(epoch)]
    assert len(rest) == 1 and len(rest[0][1]) == 27
    assert torch.equal(rest[0][0], whole[1][0]) and torch.equal(rest[0][1], whole[1][1])


def test_another_stream_is_refused(tiny_dataset: Dataset) -> None:
    with exact_loader(tiny_dataset) as loader:
        next(iter(loader.epoch(0)))
        state = loader.state_dict()
    with exact_loader(tiny_dataset, exact_2012=False) as other, pytest.raises(UserError, match="order was fixed"):
        other.load_state_dict(state)
    with pytest.raises(UsageError, match="exact_2012 with 2 ranks"):
        exact_loader(tiny_dataset, num_ranks=2)


def test_the_jitter_by_eigenvalue_is_that_of_pixels_between_0_and_1(tiny_dataset: Dataset) -> None:
    """The text's λ, for pixels of 0..1, as the eigenvalues of their covariance in numpy."""
    rows = np.concatenate([pixels.reshape(-1, 3) for pixels, _ in stored(tiny_dataset)]).astype(np.float64) / 255
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    found = {}
    scales: tuple[Literal["sqrt_eigenvalue", "eigenvalue"], ...] = ("sqrt_eigenvalue", "eigenvalue")
    for scale in scales:
        with TrainingLoader(
            tiny_dataset, batch_size=4, device=CPU, augmentation=Augmentation(pca_jitter_scale=scale)
        ) as loader:
            found[scale] = np.linalg.norm(loader.epoch_augmentation(0, pca_jitter=True).directions, axis=0) / 255
    np.testing.assert_allclose(found["sqrt_eigenvalue"], np.sqrt(eigenvalues), rtol=0.03)  # of pixels before JPEG
    np.testing.assert_allclose(found["eigenvalue"], found["sqrt_eigenvalue"] ** 2, rtol=1e-6)
