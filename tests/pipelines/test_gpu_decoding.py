"""Decoded images that are kept on a GPU, and batches that torch has not read yet."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.pipelines.decoded_cache import CacheRequest
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset


def images(loader: TrainingLoader, epoch: int) -> torch.Tensor:
    return torch.cat([batch.images.cpu() for batch in loader.epoch(epoch)])


def loader_of(dataset: Dataset, **choices: Any) -> TrainingLoader:
    # One batch of all images, and one kind of decoder: the same pixels each time.
    return TrainingLoader(
        dataset,
        batch_size=59,
        device=torch.device("cuda", 0),
        seed=0,
        options=LoaderOptions(2, decode_on="cuda"),
        **choices,
    )


def blacken(tar: Path) -> None:
    """Zeros in the places of all images' second halves, but for their end marks; headers stay."""
    content = bytearray(tar.read_bytes())
    with tarfile.open(tar) as opened:
        for member in opened.getmembers():
            if member.name.endswith(".jpg"):
                start, end = member.offset_data + member.size // 2, member.offset_data + member.size - 2
                content[start:end] = bytes(end - start)
    tar.write_bytes(content)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_from_the_second_epoch_on_nothing_is_decoded(tiny_shards: Path, tmp_path: Path) -> None:
    dataset = Dataset.load(shutil.copytree(tiny_shards, tmp_path / "shards"))
    with loader_of(dataset) as decoding:
        wanted = [images(decoding, epoch) for epoch in range(3)]
    with loader_of(dataset, cache=CacheRequest("auto")) as keeping:
        assert keeping.cache is not None and keeping.cache.share == 1
        assert torch.equal(images(keeping, 0), wanted[0])
        for tar in dataset.tars("train"):
            blacken(tar)
        for epoch in (1, 2):  # a batch with nothing to decode, in a decoder that never decoded anything
            assert torch.equal(images(keeping, epoch), wanted[epoch])
            keeping.pause()
    # Another size, for half of the images: DALI refuses it unless the first cache is gone.
    with loader_of(Dataset.load(tiny_shards), cache=CacheRequest(0.005)) as other:
        assert other.cache is not None and 0.4 < other.cache.share < 0.6
        for epoch in range(2):
            assert torch.equal(images(other, epoch), wanted[epoch])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_is_not_written_over_before_torch_has_read_it(tiny_dataset: Dataset) -> None:
    device = torch.device("cuda", 0)
    options = LoaderOptions(decode_on="cuda", decode_batch=4)
    with TrainingLoader(tiny_dataset, batch_size=4, device=device, seed=0, options=options) as loader:
        wanted = [batch.images.cpu() for batch in loader.epoch(0)]
        found = []
        for batch in loader.epoch(0):
            # The host is far ahead: what reads the batch waits behind this.
            torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]
            found.append(batch.images.clone())
            del batch
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, wanted, strict=True))
