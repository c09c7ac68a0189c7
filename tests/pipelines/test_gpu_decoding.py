"""How far the GPU's decoders are from Pillow's pixels; `pytest -m gpu -s` prints it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.pipelines.decoding import Decoding, decode
from alexnet_fast.pipelines.reader import Reading, read_samples
from alexnet_fast.pipelines.run import Execution, PipelineRun, to_torch
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.shard_file import read_samples as samples_of_tar


def pixels_by_pillow(tars: list[Path]) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """(N, size, size, 3)"""
    found = []
    for tar in tars:
        with tar.open("rb") as file:
            found += [np.asarray(Image.open(io.BytesIO(sample.jpeg)), np.int16) for sample in samples_of_tar(file)]
    return np.stack(found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("load", [0.0, 0.65, 1.0])
def test_mixed_decoding_is_near_pillows(tiny_dataset: Dataset, load: float) -> None:
    tars = tiny_dataset.tars("val")
    reading = Reading.of(tars, tiny_dataset.indexes("val"), rank=0, num_ranks=1, shuffle_buffer=None, seed=0)
    decoding = Decoding("mixed", tiny_dataset.picture.size, load)
    wanted = pixels_by_pillow(tars)
    execution = Execution(len(wanted), torch.device("cuda", 0), num_threads=2, prefetch=1)
    run = PipelineRun(lambda: (decode(read_samples(reading)[0], decoding),), execution, 1)
    found = to_torch(run.next()[0]).cpu().numpy().astype(np.int16)
    difference = np.abs(found - wanted)
    print(f"\nJPEG engines {load:g}: at most {difference.max()}, {difference.mean():.4f} on average, of 255")
    # A wrong colour space, swapped channels or a shifted picture are further away than rounding.
    assert difference.mean() < 2
