"""Normalization and augmentation of decoded pixels: in DALI on a GPU, in a compiled loop on a CPU.

On a GPU one DALI kernel crops, mirrors, jitters and rounds to half precision.  On a CPU the same operator takes 100 µs
per image after the decoder has written pixels that are cropped off again: there DALI decodes the crop alone, and a
compiled loop does the rest in a third of the time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from alexnet_fast.pipelines.augmentation import EpochAugmentation, Floats, cutting_graph, training_graph
from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.evaluation_loader import evaluation_mean
from alexnet_fast.pipelines.pipeline_run import to_torch
from alexnet_fast.pipelines.reader import Reading, labels_of
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset


class Normalization(Protocol):
    """A DALI graph, and what remains to be done to its outputs."""

    @property
    def num_outputs(self) -> int:
        """Of a graph without its draws."""

    def graph(self, reading: Reading, *, start: int = 0, with_draws: bool = False) -> tuple[Any, ...]:
        """The graph's outputs, to be called within a pipeline; the options are those of `training_graph`."""

    def normalize(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of those outputs, or a part of their images: images (N, 224, 224, 3), float16 or float32; labels (N,) int64.

        Works in place on its arguments: call it once for each image.
        """

    @property
    def left_over(self) -> torch.Tensor | None:
        """(224, 224, 3): what is still to be subtracted from these images; None: nothing."""


def as_tensors(normalization: Normalization, outputs: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """The outputs of a DALI batch that `Normalization.normalize` takes, as tensors."""
    return tuple(to_torch(output) for output in outputs[: normalization.num_outputs])


def normalization_of(
    dataset: Dataset,
    augmentation: EpochAugmentation,
    *,
    mean: Literal["image", "rgb"],
    decoding: Decoding,
    device: torch.device,
    dtype: torch.dtype,
    workers: CpuWorkers,
    leaves_residual: bool = False,
) -> Normalization:
    """The normalization for a device.  dtype: float16 or float32 on a GPU; on a CPU images are float32.

    leaves_residual: what DALI cannot subtract is `left_over`; on a CPU that is nothing.
    """
    whole_mean = evaluation_mean(dataset, mean)
    if device.type == "cpu":
        return NormalizationOnCpu(augmentation, decoding, whole_mean, workers)
    residual = None
    if mean == "image":
        # DALI multiplies with this reciprocal, to the bit.
        scaled = (whole_mean - augmentation.mean) * augmentation.scale
        residual = torch.from_numpy(scaled).to(device, dtype)
    return NormalizationInDali(
        augmentation, decoding, residual, types.FLOAT16 if dtype == torch.float16 else types.FLOAT, leaves_residual
    )


@dataclass(frozen=True)
class NormalizationInDali:
    """All in DALI, except for a mean image, which its operator does not take: torch subtracts the rest of it, a pass of
    its own over the images, or whoever reads them next, in the same pass (`leaves_residual`).
    """

    augmentation: EpochAugmentation
    decoding: Decoding
    residual: torch.Tensor | None
    """(224, 224, 3), on the device: the mean image minus its mean color, divided as the pixels are."""
    dtype: Any
    leaves_residual: bool = False

    num_outputs: int = 2

    @property
    def left_over(self) -> torch.Tensor | None:
        return self.residual if self.leaves_residual else None

    def graph(self, reading: Reading, *, start: int = 0, with_draws: bool = False) -> tuple[Any, ...]:
        return training_graph(reading, self.decoding, self.augmentation, self.dtype, start=start, with_draws=with_draws)

    def normalize(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, digits = outputs
        if self.residual is not None and not self.leaves_residual:
            images.sub_(self.residual)
        return images, labels_of(digits)


SHARED = 8
"""Images that a thread takes at a time: some 200 µs of work."""


class CpuWorkers:
    """Threads and buffers for normalization on a CPU, reused from one batch to the next."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._free: list[Floats] = []
        self._pool: ThreadPoolExecutor | None = None

    def empty(self, shape: tuple[int, ...]) -> Floats:
        """An uninitialized array of this shape, which is reused once it and every tensor made from it are deleted.

        Fresh memory for each batch costs page faults, which take as long as the arithmetic.
        """
        fitting = [place for place, array in enumerate(self._free) if array.shape == shape]
        array = self._free.pop(fitting[-1]) if fitting else np.empty(shape, np.float32)
        lent: Floats = array.view()
        weakref.finalize(lent, self._free.append, array).atexit = False
        return lent

    def map_slices(self, work: Callable[[slice], None], count: int) -> None:
        """Call work(slice) in the threads for slices of SHARED elements that cover 0 … count − 1; raises its errors."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.num_threads, "normalization")
        for _ in self._pool.map(work, (slice(start, start + SHARED) for start in range(0, count, SHARED))):
            pass  # raises what a thread raised

    def close(self) -> None:
        """End the threads and free unused buffers; it can be used again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._free.clear()


class NormalizationOnCpu:
    """(x − mean + shift) · scale in float32, each step rounded once, in one pass over the pixels."""

    left_over: torch.Tensor | None = None

    def __init__(self, augmentation: EpochAugmentation, decoding: Decoding, mean: Floats, workers: CpuWorkers) -> None:
        """mean: (224, 224, 3), or (3,)."""
        from alexnet_fast.pipelines.cpu_kernel import normalize_images  # of numba, which a GPU does without
        from alexnet_fast.tools.compilation import prepare

        self._normalize_images, self._prepare = normalize_images, prepare
        self._augmentation, self._decoding = augmentation, decoding
        self._mean = (np.tile(mean, CROP) if mean.ndim == 1 else mean).reshape(-1, CROP * 3)
        self._workers = workers
        self.num_outputs = 4

    def graph(self, reading: Reading, *, start: int = 0, with_draws: bool = False) -> tuple[Any, ...]:
        return cutting_graph(reading, self._decoding, self._augmentation, start=start, with_draws=with_draws)

    def normalize(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        crops, digits, mirror, g = outputs
        images = self._workers.empty(tuple(crops.shape))
        pixels, results = crops.numpy().reshape(-1, CROP, CROP * 3), images.reshape(-1, CROP, CROP * 3)
        mirrored, shifts = mirror.numpy().ravel(), self._augmentation.shifts(g.numpy())
        scale = np.float32(self._augmentation.scale)

        def normalize_slice(some: slice) -> None:
            self._normalize_images(pixels[some], mirrored[some], self._mean, shifts[some], scale, results[some])

        self._prepare(self._normalize_images, (pixels, mirrored, self._mean, shifts, scale, results))
        self._workers.map_slices(normalize_slice, len(images))
        return torch.from_numpy(images), labels_of(digits)
