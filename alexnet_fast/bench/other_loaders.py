"""Baselines for our loader that are measured where they are installed: torchvision's decoder, SPDL and LitData."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.bench.baseline_loaders import FRESH, Decode, Recipe, channels_last, leave_at_once, torch_loader
from alexnet_fast.tools.temporary import temporary_folder

Jpegs = list[tuple[bytes, int]]
Stream = Callable[[], Iterator[object]]
"""An epoch: ((N, 3, 224, 224) with channels-last strides, labels)."""

CHUNK = "64MB"
"""LitData's own default for its files."""
QUEUED = 3
"""Batches that SPDL makes ahead."""


def with_torchvision(jpeg: bytes) -> npt.NDArray[np.uint8]:
    """By torchvision.io, libjpeg-turbo without Pillow; (H, W, 3)."""
    from torchvision.io import ImageReadMode, decode_jpeg

    content = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    pixels: torch.Tensor = decode_jpeg(content, mode=ImageReadMode.RGB)
    return pixels.permute(1, 2, 0).numpy()


def with_spdl(jpeg: bytes) -> npt.NDArray[np.uint8]:
    """By spdl.io, which decodes with FFmpeg's libraries; (H, W, 3)."""
    import spdl.io

    frames = spdl.io.decode_packets(spdl.io.demux_image(jpeg), filter_desc="format=pix_fmts=rgb24")
    pixels: npt.NDArray[np.uint8] = spdl.io.to_numpy(spdl.io.convert_frames(frames))
    return pixels


def torchvision_loader(jpegs: Jpegs, recipe: Recipe, batch_size: int, workers: int, stack: ExitStack) -> Stream:
    """torch.utils.data.DataLoader with torchvision's decoder."""
    return torch_loader(jpegs, recipe, batch_size, workers, with_torchvision)


def spdl_loader(jpegs: Jpegs, recipe: Recipe, batch_size: int, workers: int, stack: ExitStack) -> Stream:
    """SPDL: threads of one process, each with an image of its own, in random order."""
    return partial(spdl_epoch, jpegs, recipe, batch_size, workers, with_spdl)


def spdl_epoch(
    jpegs: Jpegs, recipe: Recipe, batch_size: int, workers: int, decode: Decode
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch; its threads end with it, also when it is left early."""
    from spdl.pipeline import PipelineBuilder

    def view(place: int) -> tuple[torch.Tensor, int]:
        jpeg, label = jpegs[place]
        return recipe.view(jpeg, decode), label

    def batch(views: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*views, strict=True)
        return torch.stack(images).permute(0, 3, 1, 2), torch.tensor(labels)

    order = np.random.permutation(len(jpegs)).tolist()  # noqa: NPY002 (what people write)
    stages = PipelineBuilder().add_source(order).pipe(view, concurrency=workers)
    stages = stages.aggregate(batch_size, drop_last=True).pipe(batch).add_sink(QUEUED)
    pipeline = stages.build(num_threads=workers)
    with pipeline.auto_stop():
        yield from pipeline


def litdata_loader(jpegs: Jpegs, recipe: Recipe, batch_size: int, workers: int, stack: ExitStack) -> Stream:
    """LitData: the JPEGs in its chunks, decoded by Pillow in one worker process for each core."""
    import litdata

    folder = stack.enter_context(temporary_folder("litdata"))
    litdata.optimize(
        fn=as_sample, inputs=jpegs, output_dir=str(folder / "chunks"), num_workers=1, chunk_bytes=CHUNK, verbose=False
    )
    dataset = litdata.StreamingDataset(
        str(folder / "chunks"), cache_dir=str(folder / "cache"), shuffle=True, transform=partial(viewed, recipe)
    )
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=workers, drop_last=True, persistent_workers=True,
        multiprocessing_context=FRESH, worker_init_fn=leave_at_once,
    )  # fmt: skip
    return partial(channels_last, loader)


def as_sample(jpeg: tuple[bytes, int]) -> dict[str, Any]:
    """What LitData stores."""
    return {"jpeg": jpeg[0], "label": jpeg[1]}


def viewed(recipe: Recipe, sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """What LitData's workers make of it."""
    return recipe.view(sample["jpeg"]), sample["label"]


OPTIONAL: dict[str, tuple[str, Callable[[Jpegs, Recipe, int, int, ExitStack], Stream]]] = {
    "torch DataLoader + torchvision's decoder": ("torchvision.io", torchvision_loader),
    "SPDL": ("spdl.io", spdl_loader),
    "LitData + Pillow": ("litdata", litdata_loader),
}
"""Name of the row -> (the module without which it cannot be measured, its loader)."""
