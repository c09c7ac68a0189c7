"""From compressed pictures to the network's input: all of it in DALI on a GPU; cut by DALI, finished by numpy on a CPU.

On a GPU one DALI kernel crops, mirrors, colours and rounds to half precision.  On a CPU the same DALI operator takes
100 µs a picture, and its decoder writes pixels that are cut off again: there DALI decodes the crop alone, and numpy,
which needs half of that, does the arithmetic.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from alexnet_fast.pipelines.dali import types
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.evaluation import evaluation_mean
from alexnet_fast.pipelines.reader import Reading, labels_of
from alexnet_fast.pipelines.run import to_torch
from alexnet_fast.pipelines.training import CROP, Augmentation, Floats, cutting_graph, training_graph
from alexnet_fast.tools.dataset import Dataset


class Finishing(Protocol):
    """What a DALI graph gives, and what is still to be done to it."""

    def graph(self, reading: Reading, *, with_draws: bool = False) -> tuple[Any, ...]:
        """The graph's outputs, to be called within a pipeline; `with_draws` as in `training_graph`."""

    def finish(self, outputs: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch of those outputs: images (N, 224, 224, 3), float16 or float32, and labels (N,) int64."""


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
        return FinishingInNumpy(augmentation, decoding, whole_mean, workbench)
    residual = None
    if mean == "image":
        # DALI multiplies with this reciprocal, to the bit.
        scaled = (whole_mean - augmentation.mean) * augmentation.scale
        residual = torch.from_numpy(scaled).to(device, dtype)
    return FinishingInDali(augmentation, decoding, residual, types.FLOAT16 if dtype == torch.float16 else types.FLOAT)


@dataclass(frozen=True)
class FinishingInDali:
    """Everything but a mean image, which DALI's operator does not take: torch subtracts what it adds to its colour."""

    augmentation: Augmentation
    decoding: Decoding
    residual: torch.Tensor | None
    """(224, 224, 3), on the device: the mean image minus its mean colour, divided as the pixels are."""
    dtype: Any

    def graph(self, reading: Reading, *, with_draws: bool = False) -> tuple[Any, ...]:
        return training_graph(reading, self.decoding, self.augmentation, self.dtype, with_draws=with_draws)

    def finish(self, outputs: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, digits = (to_torch(output) for output in outputs[:2])
        if self.residual is not None:
            images.sub_(self.residual)
        return images, labels_of(digits)


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

    def share(self, work: Callable[[int], None], count: int) -> None:
        """Do work(0) … work(count - 1), each thread every n-th of them."""

        def part(first: int) -> None:
            for place in range(first, count, self.num_threads):
                work(place)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.num_threads, "finishing")
        for _ in self._pool.map(part, range(self.num_threads)):
            pass  # where an exception of a thread comes out

    def close(self) -> None:
        """End the threads and free what is free; it can be used again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._free.clear()


class FinishingInNumpy:
    """(x − mean + shift) · scale in float32, each step rounded once, half a picture at a time.

    Half a picture and half a mean image stay in a core's second cache from one step to the next; whole ones do not,
    and for less numpy is called too often.
    """

    def __init__(self, augmentation: Augmentation, decoding: Decoding, mean: Floats, workbench: Workbench) -> None:
        """mean: (224, 224, 3), or (3,)."""
        self._augmentation, self._decoding = augmentation, decoding
        self._mean_colour = mean if mean.ndim == 1 else None
        mean_image = mean.reshape(CROP, CROP * 3) if mean.ndim == 3 else None
        self._mean_images = [None if mean_image is None else mean_image[rows] for rows in HALVES]
        self._workbench = workbench

    def graph(self, reading: Reading, *, with_draws: bool = False) -> tuple[Any, ...]:
        return cutting_graph(reading, self._decoding, self._augmentation, with_draws=with_draws)

    def finish(self, outputs: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        crops, digits, mirror, g = (to_torch(output) for output in outputs[:4])
        images = self._workbench.take(tuple(crops.shape))
        flat, pixels = images.reshape(len(images), CROP, CROP * 3), crops.numpy()
        is_mirrored, colour_rows = mirror.flatten().tolist(), self._colour_rows(g.numpy())

        def finish_place(place: int) -> None:
            for rows, mean_image in zip(HALVES, self._mean_images, strict=True):
                if is_mirrored[place]:
                    copy_mirrored(crops[place, rows], images[place, rows])
                else:
                    np.copyto(images[place, rows], pixels[place, rows])
                self._calculate(flat[place, rows], mean_image, colour_rows[place])

        self._workbench.share(finish_place, len(flat))
        return torch.from_numpy(images), labels_of(digits)

    def _colour_rows(self, g: Floats) -> Floats:
        """(N, 224 · 3): what is added to each row of a picture, beside the mean image."""
        colours = self._augmentation.shifts(g)
        if self._mean_colour is not None:
            colours -= self._mean_colour
        rows = np.empty((len(g), CROP, 3), np.float32)
        rows[:] = colours[:, None]
        return rows.reshape(len(g), CROP * 3)

    def _calculate(self, pixels: Floats, mean_image: Floats | None, colour_row: Floats) -> None:
        if mean_image is not None:
            pixels -= mean_image
        pixels += colour_row
        pixels *= self._augmentation.scale


HALVES = slice(0, CROP // 2), slice(CROP // 2, CROP)
MIRRORED_ROWS = 38
"""Rows that are mirrored at once, a third of half a picture: 38 · 224 · 3 numbers are fewer than the 32,768 from which torch wakes its threads,
which then wait for more in a busy loop, on the cores where DALI decodes."""


def copy_mirrored(rows: torch.Tensor, out: Floats) -> None:
    """(H, W, 3) uint8 to float32, left and right exchanged.

    By torch, as numpy takes ten times as long to turn pixels of three bytes.
    """
    for start in range(0, len(rows), MIRRORED_ROWS):
        part = slice(start, start + MIRRORED_ROWS)
        np.copyto(out[part], rows[part].flip(1).numpy())
