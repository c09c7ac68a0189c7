"""Evaluation: whole images from DALI, views cut in torch when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from alexnet_fast.pipelines.arguments import as_dataset, as_device
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.pipelines.decoding import Decoding, decode
from alexnet_fast.pipelines.diagnosis import Shards, check_labels
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading, labels_of, read_samples
from alexnet_fast.pipelines.seeds import part_of_rank
from alexnet_fast.pipelines.segments import OrderedSegment, ordered_segments
from alexnet_fast.pipelines.settings import LoaderOptions, check_share
from alexnet_fast.tools.crop import CROP, center_crop
from alexnet_fast.tools.dataset import Dataset


def view_corners(size: int) -> list[tuple[int, int]]:
    """Top left corner (y, x) of the five crops of an image of `size` pixels: center, then the four corners."""
    margin = size - CROP
    return [(margin // 2, margin // 2), (0, 0), (0, margin), (margin, 0), (margin, margin)]


class EvaluationLoader:
    """Every sample of a split exactly once over the ranks, in the order of the shards.

    >>> from alexnet_fast import EvaluationLoader
    >>> for images, labels in EvaluationLoader("shards", batch_size=8, device="cpu"):
    ...     pass                           # the center view; batch.cut_view(1) to (9): corners and mirrors
    >>> images.shape[1:], labels.dtype
    (torch.Size([3, 224, 224]), torch.int64)
    """

    def __init__(
        self,
        dataset: Dataset | Path | str,
        *,
        split: str = "val",
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        mean: Literal["image", "rgb"] | torch.Tensor = "image",
        rank: int = 0,
        num_ranks: int = 1,
        options: LoaderOptions | None = None,
    ) -> None:
        """batch_size: this rank's; the last batch holds what is left.  The rest as in TrainingLoader.

        mean: also the mean that a network was trained with, (224, 224, 3) or (3,) float32.
        """
        dataset, device = as_dataset(dataset), as_device(device)
        check_share(dataset, split, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        self.num_samples = dataset.split(split).samples
        """On all ranks together."""
        self._places = part_of_rank(self.num_samples, rank, num_ranks)
        # A rank's part may be smaller than a batch; parts differ by one sample where the split does not divide.
        self._batch_size = min(batch_size, len(self._places))
        dataset.check_sizes(split)
        self._dataset, self._split = dataset, split
        self.num_batches = -(-len(self._places) // self._batch_size)
        """Of this rank."""
        settings = (options or LoaderOptions()).settings(device)
        self._execution = Execution(self._batch_size, device, settings.num_threads, settings.prefetch)
        size = dataset.image_options.size
        self._decoding = Decoding.on(device, size, settings.decode_on, settings.hw_decoder_load)
        sizes = [shard.samples for shard in dataset.split(split).shards]
        self._segments = ordered_segments(sizes, self._places, self._batch_size)
        own_mean = mean if isinstance(mean, torch.Tensor) else torch.from_numpy(evaluation_mean(dataset, mean))
        self._mean = own_mean.to(device)
        self._dtype = dtype

    def __iter__(self) -> Iterator[EvaluationBatch]:
        shards = Shards.of(self._dataset, self._split)
        for segment in self._segments:
            graph, num_batches = partial(self._graph, segment), -(-len(segment.samples) // self._batch_size)
            with closing(PipelineRun(graph, self._execution, num_batches, shards=shards)) as run:
                run.check_num_samples(self._dataset, self._split, segment.num_samples)
                yield from self._batches(run, segment.samples)

    def _batches(self, run: PipelineRun, samples: range) -> Iterator[EvaluationBatch]:
        for start in range(samples.start, samples.stop, self._batch_size):
            count = min(self._batch_size, samples.stop - start)
            outputs = run.next()
            run.check_size(outputs[0])
            pixels, digits = (to_torch(output)[:count] for output in outputs)
            labels = labels_of(digits)
            check_labels(labels, self._dataset)
            places = torch.arange(start, start + count, device=labels.device)
            yield EvaluationBatch(view_cutter(pixels, self._mean, self._dtype), labels, places)

    def __len__(self) -> int:
        return self.num_batches

    def _graph(self, segment: OrderedSegment) -> tuple[Any, ...]:
        tars, indexes = (
            files[segment.shards.start : segment.shards.stop]
            for files in (self._dataset.tars(self._split), self._dataset.indexes(self._split))
        )
        reading = Reading.from_sample(tars, indexes, offset=segment.offset, num_samples=segment.num_samples)
        jpeg, digits = read_samples(reading)
        pixels = decode(jpeg, self._decoding)
        if self._decoding.to_gpu:
            pixels = pixels.gpu()
        return pixels, digits.gpu() if self._execution.device.type == "cuda" else digits


def view_cutter(pixels_NHWC: torch.Tensor, mean: torch.Tensor, dtype: torch.dtype) -> Callable[[int], torch.Tensor]:
    """View 0..9 of (N, S, S, 3) uint8 pixels -> (N, 3, 224, 224): 0 the center, 1..4 the corners, 5..9 their mirrors.

    mean: (224, 224, 3) or (3,) float32, subtracted from every view alike, on the device of the pixels.
    """
    corners = view_corners(pixels_NHWC.shape[1])

    def cut_view(number: int) -> torch.Tensor:
        y, x = corners[number % 5]
        view = pixels_NHWC[:, y : y + CROP, x : x + CROP]
        if number >= 5:
            view = view.flip(2)
        # The mean has float32: the difference has too, and is rounded once.
        return (view - mean).to(dtype).permute(0, 3, 1, 2)

    return cut_view


def evaluation_mean(dataset: Dataset, mean: Literal["image", "rgb"]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(224, 224, 3): the mean image's center crop; or (3,): the mean color.  Subtracted from every view alike."""
    if mean == "rgb":
        return dataset.statistics.mean_rgb.astype(np.float32)
    return center_crop(dataset.mean_image)
