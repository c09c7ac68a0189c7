"""From compressed images to the network's input: all of it in DALI on a GPU; cut by DALI on a CPU, finished outside.

On a GPU one DALI kernel crops, mirrors, colors and rounds to half precision.  On a CPU the same DALI operator takes
100 µs a image, and its decoder writes pixels that are cut off again: there DALI decodes the crop alone, and a
compiled loop, which needs a third of that, does the rest.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from alexnet_fast.pipelines.augmentation import Augmentation, Floats, cutting_graph, training_graph
from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.evaluation_loader import evaluation_mean
from alexnet_fast.pipelines.pipeline_run import to_torch
from alexnet_fast.pipelines.reader import Reading, labels_of
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset


class Finishing(Protocol):
    """What a DALI graph gives, and what is still to be done to it."""

    @property
    def num_outputs(self) -> int:
        """Of a graph without its draws."""

    def graph(self, reading: Reading, *, start: int = 0, with_draws: bool = False) -> tuple[Any, ...]:
        """The graph's outputs, to be called within a pipeline; the options are those of `training_graph`."""

    def finish(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of those outputs, or a part of their images: images (N, 224, 224, 3), float16 or float32; labels (N,) int64.

        What it is given may be written over: it is to be called once for each image.
        """


def take(finishing: Finishing, outputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """What `Finishing.finish` takes, of a batch of DALI's outputs."""
    return tuple(to_torch(output) for output in outputs[: finishing.num_outputs])


def finishing_of(
    dataset: Dataset,
    augmentation: Augmentation,
    *,
    mean: Literal["image", "rgb"],
    decoding: Decoding,
    device: torch.device,
    dtype: torch.dtype,
    workbench: Workbench,
) -> Finishing:
    """The finishing for a device.  dtype, float16 or float32, holds on a GPU; on a CPU images come in float32."""
    whole_mean = evaluation_mean(dataset, mean)
    if device.type == "cpu":
        return FinishingOnCpu(augmentation, decoding, whole_mean, workbench)
    residual = None
    if mean == "image":
        # DALI multiplies with this reciprocal, to the bit.
        scaled = (whole_mean - augmentation.mean) * augmentation.scale
        residual = torch.from_numpy(scaled).to(device, dtype)
    return FinishingInDali(augmentation, decoding, residual, types.FLOAT16 if dtype == torch.float16 else types.FLOAT)


@dataclass(frozen=True)
class FinishingInDali:
    """Everything but a mean image, which DALI's operator does not take: torch subtracts what it adds to its color."""

    augmentation: Augmentation
    decoding: Decoding
    residual: torch.Tensor | None
    """(224, 224, 3), on the device: the mean image minus its mean color, divided as the pixels are."""
    dtype: Any

    num_outputs: int = 2

    def graph(self, reading: Reading, *, start: int = 0, with_draws: bool = False) -> tuple[Any, ...]:
        return training_graph(reading, self.decoding, self.augmentation, self.dtype, start=start, with_draws=with_draws)

    def finish(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, digits = outputs
        if self.residual is not None:
            images.sub_(self.residual)
        return images, labels_of(digits)


SHARED = 8
"""Images that a thread takes at a time: some 200 µs of work."""


class Workbench:
    """Threads and memory for work on a CPU, kept from one batch to the next."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._free: list[Floats] = []
        self._pool: ThreadPoolExecutor | None = None

    def take(self, shape: tuple[int, ...]) -> Floats:
        """An array of this shape; free again when it, and every tensor made of it, is gone.

        Fresh memory for each batch would cost its page faults: as much as the arithmetic.
        """
        fitting = [place for place, array in enumerate(self._free) if array.shape == shape]
        array = self._free.pop(fitting[-1]) if fitting else np.empty(shape, np.float32)
        lent: Floats = array.view()
        weakref.finalize(lent, self._free.append, array).atexit = False
        return lent

    def share(self, work: Callable[[slice], None], count: int) -> None:
        """Do work(slice) for slices that cover 0 … count − 1, SHARED places each, by whichever thread is free."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.num_threads, "finishing")
        for _ in self._pool.map(work, (slice(start, start + SHARED) for start in range(0, count, SHARED))):
            pass  # where an exception of a thread comes out

    def close(self) -> None:
        """End the threads and free what is free; it can be used again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._free.clear()


class FinishingOnCpu:
    """(x − mean + shift) · scale in float32, each step rounded once, in one pass over the pixels."""

    def __init__(self, augmentation: Augmentation, decoding: Decoding, mean: Floats, workbench: Workbench) -> None:
        """mean: (224, 224, 3), or (3,)."""
        from alexnet_fast.pipelines.cpu_kernel import finish_images  # of numba, which a GPU does without
        from alexnet_fast.tools.compilation import prepare

        self._finish_images, self._prepare = finish_images, prepare
        self._augmentation, self._decoding = augmentation, decoding
        self._mean = (np.tile(mean, CROP) if mean.ndim == 1 else mean).reshape(-1, CROP * 3)
        self._workbench = workbench
        self.num_outputs = 4

    def graph(self, reading: Reading, *, start: int = 0, with_draws: bool = False) -> tuple[Any, ...]:
        return cutting_graph(reading, self._decoding, self._augmentation, start=start, with_draws=with_draws)

    def finish(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        crops, digits, mirror, g = outputs
        images = self._workbench.take(tuple(crops.shape))
        pixels, results = crops.numpy().reshape(-1, CROP, CROP * 3), images.reshape(-1, CROP, CROP * 3)
        mirrored, shifts = mirror.numpy().ravel(), self._augmentation.shifts(g.numpy())
        scale = np.float32(self._augmentation.scale)

        def finish_some(some: slice) -> None:
            self._finish_images(pixels[some], mirrored[some], self._mean, shifts[some], scale, results[some])

        self._prepare(self._finish_images, (pixels, mirrored, self._mean, shifts, scale, results))
        self._workbench.share(finish_some, len(images))
        return torch.from_numpy(images), labels_of(digits)
