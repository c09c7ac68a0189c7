"""What DALI cannot subtract of the mean image, left to the training step: the same images to the bit in the end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines import loader as loaders
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.evaluation_loader import evaluation_mean
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.normalization import NormalizationInDali
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

CPU = torch.device("cpu")


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph and the normalization of a GPU's loader, on DALI's CPU backend."""

    def normalization_of(dataset: Dataset, augmentation: Any, **choices: Any) -> NormalizationInDali:
        whole = evaluation_mean(dataset, "image")
        residual = torch.from_numpy((whole - augmentation.mean) * augmentation.scale).float()
        return NormalizationInDali(
            augmentation, choices["decoding"], residual, types.FLOAT, choices.get("leaves_residual", False)
        )

    monkeypatch.setattr(loaders, "normalization_of", normalization_of)


def loader_of(dataset: Dataset, **choices: Any) -> TrainingLoader:
    return TrainingLoader(dataset, batch_size=4, device=CPU, seed=3, **choices)


def finished(batches: Iterable[Batch]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [tuple(tensor.clone() for tensor in batch) for batch in batches]  # type: ignore[misc]


def assert_equal(one: list[tuple[torch.Tensor, torch.Tensor]], other: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert len(one) == len(other)
    for (images, labels), (wanted, wanted_labels) in zip(one, other, strict=True):
        assert torch.equal(images, wanted) and torch.equal(labels, wanted_labels)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("decode_batch", [4, 20])
def test_a_loader_that_leaves_it_gives_the_same_stream(tiny_dataset: Dataset, decode_batch: int) -> None:
    """Whole epochs, and what is left of one in another loader."""
    with loader_of(tiny_dataset) as loader:
        wanted = [finished(loader.epoch(0)), finished(loader.epoch(1, pca_jitter=False))]
    with loader_of(tiny_dataset, leaves_residual=True, options=LoaderOptions(decode_batch=decode_batch)) as loader:
        raw = next(loader.epoch(0))
        assert raw.residual is not None and raw.residual.shape == (3, 224, 224) and raw.residual.abs().max() > 1
        assert not torch.equal(raw.images, raw.finished().images)
        assert_equal(finished(loader.epoch(0)), wanted[0])
        assert_equal(finished(loader.epoch(1, pca_jitter=False)), wanted[1])  # divided otherwise
        stream = loader.epoch(0)
        for _ in range(6):
            next(stream)
        state = json.loads(json.dumps(loader.state_dict()))
    with loader_of(tiny_dataset, leaves_residual=True) as other:
        other.load_state_dict(state)
        assert_equal(finished(other.epoch(0)), wanted[0][6:])


def test_on_a_cpu_nothing_is_left(tiny_dataset: Dataset) -> None:
    with loader_of(tiny_dataset, leaves_residual=True) as loader, loader_of(tiny_dataset) as other:
        batch = next(loader.epoch(0))
        assert batch.residual is None and batch.finished() is batch
        assert torch.equal(batch.images, next(other.epoch(0)).images)


# ---------------------------------------------------------------------- the training step


def step_of(precision: str = "fp32") -> TrainingStep:
    model = AlexNet(small(NETS["167"]))
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=Precision(precision, torch.float32, ""))


def unfinished() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images, residual = torch.randn(4, 3, 67, 67, generator=generator) * 60, torch.randn(3, 67, 67, generator=generator)
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(4), residual * 9)


def test_a_step_subtracts_it_first() -> None:
    batch = unfinished()
    ours, plain, without = step_of(), step_of(), step_of()
    found = ours(batch, step=0, seed=0).loss
    assert torch.equal(found, plain(batch.finished(), step=0, seed=0).loss)
    assert all(torch.equal(tensor, plain.parameters[name]) for name, tensor in ours.parameters.items())
    assert not torch.equal(found, without(replace(batch, residual=None), step=0, seed=0).loss)


def test_halves_are_sent_without_it() -> None:
    """Where each process of a replica loads half of its images."""
    batch = unfinished()
    halves = step_of().halves
    halves.exchanged, sent = True, list[torch.Tensor]()

    def start(own: torch.Tensor, peer_shape: torch.Size) -> Any:
        sent.append(own)
        return lambda: own

    halves.exchange.start = start  # type: ignore[method-assign]
    whole = halves.whole_batch(batch)
    assert whole.residual is None and torch.equal(whole.images[:4], batch.finished().images)
    assert torch.equal(sent[0], batch.finished().images)


def test_what_stopped_a_run_is_looked_for_in_the_images_that_were_trained_on() -> None:
    batch = unfinished()
    assert batch.residual is not None
    batch.residual[0, 0, 0] = float("inf")
    with pytest.raises(DivergedError, match="the first to blame is the images"):
        step_of()(batch, step=0, seed=0)
