"""Shards to training batches, epoch by epoch: exact, reproducible, resumable to the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from alexnet_fast.pipelines.arguments import as_dataset, as_device
from alexnet_fast.pipelines.augmentation import Augmentation, EpochAugmentation
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.dali import VERSION
from alexnet_fast.pipelines.decoded_cache import (
    MIB,
    CachePlan,
    CacheRequest,
    LoaderMemory,
    check_gpu_memory,
    memory_of_loader,
    plan_cache,
)
from alexnet_fast.pipelines.decoding import Decoding
from alexnet_fast.pipelines.diagnosis import Shards, check_labels
from alexnet_fast.pipelines.evaluation_loader import EvaluationLoader
from alexnet_fast.pipelines.normalization import CpuWorkers, Normalization, as_tensors, normalization_of
from alexnet_fast.pipelines.pipeline_run import CacheKeeper, Execution, PipelineRun, free_gpu_memory
from alexnet_fast.pipelines.place import Checkpoint, Place, check_stream, check_version, place_in, state_of
from alexnet_fast.pipelines.reader import Reading
from alexnet_fast.pipelines.seeds import derive_seed, part_of_rank
from alexnet_fast.pipelines.segments import Epochs, Segment
from alexnet_fast.pipelines.settings import LoaderOptions, LoaderSettings, check_batch
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError

__all__ = ["EvaluationLoader", "TrainingLoader"]

CROPPED_ALIKE = 32
"""Consecutive images with the same crop and mirror in 2012.  Source: convdata.py:125 of the authors' release."""


class TrainingLoader:
    """Training batches of one split, for one rank: for any PyTorch model and any training loop.

    >>> from alexnet_fast import TrainingLoader
    >>> loader = TrainingLoader("shards", batch_size=16, device="cpu")
    >>> for images, labels in loader:      # epoch 0; another `for` is epoch 1
    ...     pass
    >>> images.shape, labels.dtype
    (torch.Size([16, 3, 224, 224]), torch.int64)

    An epoch's images, crops, mirrors and colors follow from `seed`, the epoch's number and the rank alone; thread
    counts and prefetch do not change them.  On a GPU the pixels themselves follow from `hw_decoder_load` too: it
    decides which images the JPEG engines decode and which the CUDA cores, and the two round differently.  Where
    decoded images are kept, each has the pixels of whichever decoded it first: with `hw_decoder_load` between 0 and 1
    a run that was resumed, and so decodes again, may have other last bits than an unbroken one.

    Each epoch reads the shards in another order, through a buffer that is shuffled, and gives every sample at most
    once: what does not fill a batch on all ranks is skipped.  Where decoded images are kept and there are several
    ranks, each rank has the same samples in every epoch, so that it finds them in its cache.  More than two million
    images are read in segments (`segments.py`), and the buffer shuffles within one.

    images (N, 3, 224, 224), channels-last, (x − mean + Σ gᵢ·sᵢ·pᵢ) / (1 + pca_jitter) for pixels x in 0..255, with
    the PCA color jitter of `Augmentation`.
    """

    def __init__(
        self,
        dataset: Dataset | Path | str,
        *,
        batch_size: int,
        device: torch.device | str | None = None,
        seed: int = 0,
        split: str = "train",
        rank: int = 0,
        num_ranks: int = 1,
        dtype: torch.dtype = torch.float32,
        mean: Literal["image", "rgb"] = "image",
        augmentation: Augmentation | None = None,
        exact_2012: bool = False,
        shuffle_buffer: int = 8192,
        options: LoaderOptions | None = None,
        cache: CacheRequest | None = None,
        leaves_residual: bool = False,
    ) -> None:
        """dataset: a `Dataset`, or the path of a shards folder.  batch_size: images of a batch of this rank.
        device: where the batches are made and stay, such as "cpu" or "cuda:1"; None: the current GPU, else the CPU.
        seed, rank, num_ranks: the same seed on all ranks, and each rank its own number, give each its part of an epoch.
        options: what decides the speed; None takes what was found best for this machine, else defaults.

        dtype: float32, or float16 (made by DALI on a GPU, where it is free).
        mean: "image" subtracts the mean image's center 224 crop, whichever crop the image got, as in 2012; "rgb" one
            color.
        augmentation: crop, mirror and PCA color jitter; None: those of 2012.
        exact_2012: the stream as in 2012: samples in the shards' order in every epoch, one crop and mirror for
            `CROPPED_ALIKE` consecutive ones, and the short last batch too.  For one rank.
        shuffle_buffer: samples in the reader's buffer of compressed images (about 0.2 GB at 8192).
        cache: keep decoded images in the GPU's memory; they are not decoded again until `close`.  Has not run on a GPU
            yet.  One loader with a cache at a time on each GPU of a process.
        leaves_residual: on a GPU the mean image less its mean color is not subtracted, but given as `Batch.residual`.
        """
        if shuffle_buffer < 1:
            raise UsageError(f"a shuffle buffer of {shuffle_buffer} samples: give 1 or more.")
        if exact_2012 and num_ranks > 1:
            raise UsageError(f"exact_2012 with {num_ranks} ranks: in 2012 there was one stream. Give one rank.")
        dataset, device = as_dataset(dataset), as_device(device)
        split_info = dataset.split(split)
        check_batch(dataset, split, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        dataset.check_sizes(split)
        self.batch_size = batch_size
        self._dataset = dataset
        self._split = split
        self._seed = seed
        self._rank, self._num_ranks = rank, num_ranks
        sizes = tuple(shard.samples for shard in split_info.shards)
        same_samples = cache is not None and num_ranks > 1
        self._epochs = Epochs(sizes, batch_size, num_ranks, seed, in_order=exact_2012, same_samples=same_samples)
        self.num_batches = self._epochs.num_batches
        """Of one epoch, on every rank."""
        self.dtype, self._device = dtype, device
        self._mean, self._augmentation = mean, augmentation or Augmentation()
        self._exact_2012 = exact_2012
        self._leaves_residual = leaves_residual
        self._shuffle_buffer = min(shuffle_buffer, split_info.samples // num_ranks)
        settings = (options or LoaderOptions()).settings(device)
        self.cache: CachePlan | None = None
        """The cache of decoded images; None where none was requested."""
        if cache is not None:
            check_gpu_memory(device.type)
            if settings.decode_on == "cpu":  # the cache belongs to the GPU's decoder
                settings = replace(settings, decode_on="cuda")
            self.cache = self._plan_cache(cache, settings)
        self._apply(settings)
        self._keeper: CacheKeeper | None = None
        self._workers = CpuWorkers(settings.num_threads)
        self._run: PipelineRun | None = None
        self._place: Place | None = None
        self._resuming = False
        self._generation = 0

    def _apply(self, settings: LoaderSettings) -> None:
        """Use these settings from the next start of a pipeline on."""
        self._settings = settings
        cache_mib = self.cache.mib if self.cache is not None else 0
        self._decoding = replace(self._decoding_of(settings), cache_mib=cache_mib)
        decode_batch = settings.fitting_batch(self.batch_size, self.num_batches)
        self._execution = Execution(decode_batch, self._device, settings.num_threads, settings.prefetch, cache_mib)
        self.memory = replace(self._memory(settings), kept=cache_mib * MIB)
        """Of the GPU, that this loader takes."""

    def _decoding_of(self, settings: LoaderSettings) -> Decoding:
        size = self._dataset.image_options.size
        return Decoding.on(self._device, size, settings.decode_on, settings.hw_decoder_load)

    def _memory(self, settings: LoaderSettings) -> LoaderMemory:
        if self._device.type == "cpu":
            return LoaderMemory()
        decode_batch = settings.fitting_batch(self.batch_size, self.num_batches)
        return memory_of_loader(
            self._dataset, self._split, settings, self.dtype, batch_size=self.batch_size, decode_batch=decode_batch
        )

    def _plan_cache(self, asked: CacheRequest, settings: LoaderSettings) -> CachePlan:
        free, _ = torch.cuda.mem_get_info(self._device)
        return plan_cache(
            asked.size,
            free=free,
            needed=self._memory(settings).beside_kept(self.batch_size) + asked.memory_beside,
            samples=len(part_of_rank(self._dataset.split(self._split).samples, self._rank, self._num_ranks)),
            size=self._dataset.image_options.size,
        )

    # ------------------------------------------------------------------ epochs

    def __len__(self) -> int:
        """Batches of one epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch: the first `for` over the loader gives epoch 0, the second epoch 1, and so on.

        After `load_state_dict` the first one gives what is left of the epoch that was interrupted.
        """
        if self._place is None:
            return self.epoch(0)
        return self.epoch(self._place.epoch + (0 if self._resuming else 1))

    def epoch(self, number: int, *, pca_jitter: bool = True) -> Iterator[Batch]:
        """The batches of epoch `number` (0, 1, …); after `load_state_dict`, those that are left of it.

        pca_jitter: False omits the PCA color jitter, and its divisor with it; what is left of an epoch need not
            have the jitter that it was begun with.
        """
        if not self._resuming or self._place is None or self._place.epoch != number:
            self._place = Place(number)
        self._resuming = False
        self.pause()
        self._generation += 1
        return self._batches(self._generation, self._place, pca_jitter)

    def _batches(self, generation: int, place: Place, pca_jitter: bool) -> Iterator[Batch]:
        self._check_current(generation)
        if place.batches == self.num_batches:
            return
        if self._decoding.cache_mib and self._keeper is None:
            self._keeper = CacheKeeper(self._decoding, self._execution)
        normalization = self.normalization(place.epoch, pca_jitter=pca_jitter)
        for segment in self._epochs.segments(place.epoch):
            if place.batches * self.batch_size < segment.end:
                yield from self._batches_of(segment, generation, place, normalization)
        place.checkpoint = Checkpoint()

    def _batches_of(
        self, segment: Segment, generation: int, place: Place, normalization: Normalization
    ) -> Iterator[Batch]:
        """Those that are left of a segment."""
        if place.checkpoint.samples < segment.start:
            place.checkpoint = Checkpoint(segment.start)
        self._run = self._start(place, segment, normalization)
        self._run.check_num_samples(self._dataset, self._split, segment.num_samples)
        start = place.checkpoint.samples
        decoded: tuple[torch.Tensor, ...] = ()
        first, past = start, start  # of the decoded samples
        while place.batches * self.batch_size < segment.end:
            self._check_current(generation)
            if self._run is None:
                raise RuntimeError("this epoch was ended: the loader was closed")
            begin = place.batches * self.batch_size
            try:
                while begin >= past:
                    if past > start:
                        place.checkpoint = Checkpoint(past, self._run.checkpoint())
                    decoded = as_tensors(normalization, self._run.next())
                    first, past = past, past + self._execution.batch_size
                end = min(begin + self.batch_size, self._dataset.split(self._split).samples)
                part = slice(begin - first, end - first)
                batch = self._batch(normalization, tuple(output[part] for output in decoded))
            except BaseException:
                self._end_run()  # it is ahead of the batches that were returned
                raise
            place.batches += 1
            yield batch
        self._end_run()

    def _check_current(self, generation: int) -> None:
        if generation != self._generation:
            raise RuntimeError("this epoch was ended: another one was begun")

    def _batch(self, normalization: Normalization, outputs: tuple[torch.Tensor, ...]) -> Batch:
        images_NHWC, labels = normalization.normalize(outputs)
        residual = None if normalization.left_over is None else normalization.left_over.permute(2, 0, 1)
        batch = Batch(images_NHWC.to(self.dtype).permute(0, 3, 1, 2), labels, residual)
        check_labels(batch.labels, self._dataset)
        return batch

    def _start(self, place: Place, segment: Segment, normalization: Normalization) -> PipelineRun:
        """The pipeline for the rest of a segment, from the position's checkpoint on."""
        reading = self._reading(place.epoch, segment)
        start = place.checkpoint.samples
        return PipelineRun(
            lambda: normalization.graph(reading, start=start),
            self._execution,
            -(-(segment.end - start) // self._execution.batch_size),
            checkpointing=True,
            checkpoint=place.checkpoint.dali,
            shards=Shards.of(self._dataset, self._split),
        )

    def normalization(self, epoch: int, *, pca_jitter: bool) -> Normalization:
        """The normalization of an epoch's images."""
        return normalization_of(
            self._dataset,
            self.epoch_augmentation(epoch, pca_jitter=pca_jitter),
            mean=self._mean,
            decoding=self._decoding,
            device=self._device,
            dtype=self.dtype,
            workers=self._workers,
            leaves_residual=self._leaves_residual,
        )

    def _reading(self, epoch: int, segment: Segment) -> Reading:
        tars, indexes = self._dataset.tars(self._split), self._dataset.indexes(self._split)
        purpose = f"shuffle {segment.number}" if segment.number else "shuffle"
        buffer = min(self._shuffle_buffer, segment.num_samples // self._num_ranks)
        return Reading.of(
            [tars[place] for place in segment.shards],
            [indexes[place] for place in segment.shards],
            rank=self._rank,
            num_ranks=self._num_ranks,
            shuffle_buffer=None if self._exact_2012 else buffer,
            seed=derive_seed(self._seed, epoch, self._rank, purpose),
            skip_cached=self._decoding.cache_mib > 0,
        )

    def epoch_augmentation(self, epoch: int, *, pca_jitter: bool) -> EpochAugmentation:
        """The parameters of an epoch's augmentation."""
        return self._augmentation.of_epoch(
            self._dataset.statistics,
            seed=self._seed,
            epoch=epoch,
            rank=self._rank,
            pca_jitter=pca_jitter,
            cropped_alike=CROPPED_ALIKE if self._exact_2012 else 1,
        )

    # ------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream after the last batch returned: plain numbers and strings."""
        decoding = {
            "decode_on": self._settings.decode_on,
            "hw_decoder_load": self._settings.hw_decoder_load,
            "decode_batch": self._execution.batch_size,
        }
        return state_of(self._place, self.stream(), decoding)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, in this process or another.

        On a GPU this loader decodes from now on as the one that the state is of: which images the JPEG engines decode
        rounds their pixels.  Raises UserError, naming the differences, where this loader would not give the same
        stream.
        """
        check_version(state)
        self.pause()
        if self._device.type != "cpu" and state["stream"]["decoder"] != "cpu":
            self._apply(replace(self._settings, **state["decoding"]))
        check_stream(state["stream"], self.stream())
        self._place = place_in(state)
        self._resuming = self._place is not None

    def stream(self) -> dict[str, str]:
        """Name -> value of all that determines the batches; two loaders with equal values give the same ones."""
        return {
            "data set": self._dataset.fingerprint,
            "split": self._split,
            "seed": str(self._seed),
            "batch size": str(self.batch_size),
            **({"order": f"fixed, {CROPPED_ALIKE} cropped alike, short last batch"} if self._exact_2012 else {}),
            **self._epochs.stream(self._rank),
            "shuffle buffer": str(self._shuffle_buffer),
            "crop": f"{CROP} of {self._dataset.image_options.size}"
            + ("" if self._augmentation.crop_and_mirror else ", center"),
            "mean": self._mean,
            "pca_jitter": self._augmentation.describe_jitter(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "decoder": self._decoding.describe(),
            "DALI": VERSION,
        }

    # --------------------------------------------------------------------- end

    def pause(self) -> None:
        """Stop reading and free threads and buffers, not the decoded images; `state_dict` and `epoch` still work."""
        self._end_run()
        self._workers.close()

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()

    def close(self) -> None:
        """`pause`, and free the decoded images too; a later epoch decodes them again."""
        self.pause()
        self._keeper = None
        if self._device.type == "cuda":
            free_gpu_memory()

    def __enter__(self) -> TrainingLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
