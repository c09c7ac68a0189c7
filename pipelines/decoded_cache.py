"""How many decoded images fit into a GPU's memory beside what training needs.

Estimated; not measured on a GPU yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from alexnet_fast.pipelines.settings import LoaderSettings
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted

MIB, GIB = 1 << 20, 1 << 30
LEFT_FREE = 0.1
"""Share of the free memory that is left for what is not counted: libraries, fragments."""
DECODER_THREAD = 16 * MIB
"""Bytes of the GPU's memory that DALI's decoder takes for each thread (its device_memory_padding)."""

CacheSize = float | Literal["auto"]
"""GiB, or as much as fits."""


@dataclass(frozen=True)
class CacheRequest:
    """A request to keep decoded images in the GPU's memory."""

    size: CacheSize
    memory_beside: int = 0
    """Bytes that training will need on this GPU; "auto" leaves them free."""


@dataclass(frozen=True)
class LoaderMemory:
    """What a loader takes of a GPU's memory, in bytes, estimated; nothing on a CPU."""

    per_image: float = 0.0
    """For each image of a training batch, where as many are decoded together: ready, or in the making."""
    decoder: int = 0
    """Whatever the training batch: the decoder's threads, and decoded batches of a size of their own."""
    kept: int = 0
    """Decoded images that stay."""

    def beside_kept(self, batch_size: int) -> int:
        """All but what stays."""
        return int(self.per_image * batch_size) + self.decoder


@dataclass(frozen=True)
class CachePlan:
    """How many decoded images one process keeps."""

    mib: int
    """0: none fits."""
    samples: int
    """Of the process's part of the data set."""
    image_bytes: int

    @property
    def share(self) -> float:
        """Of those samples, 0..1, that fit."""
        return min(1.0, self.mib * MIB // self.image_bytes / self.samples)

    def describe(self) -> str:
        """One line for people."""
        if not self.mib:
            return (
                "No decoded images are kept: beside what is needed otherwise, this GPU has no memory free. "
                "A smaller batch needs less."
            )
        return (
            f"{self.mib / 1024:.1f} GiB of decoded images are kept on this GPU: {self.share:.0%} of its "
            f"{counted(self.samples, 'image')}, each decoded once in this session."
        )


def parse_cache_size(text: str) -> CacheSize:
    """The value of --cache-decoded; UsageError where it is invalid."""
    if text == "auto":
        return "auto"
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not (math.isfinite(gib) and gib > 0):
        raise UsageError(f"--cache-decoded {text}: give auto, or a number of GiB above 0.")
    return gib


def check_gpu_memory(device_type: str) -> None:
    """UsageError where there is no GPU to keep images on."""
    if device_type == "cpu":
        raise UsageError(
            "--cache-decoded: on a CPU there is no GPU memory to keep decoded images in. Leave it out, or use a GPU."
        )


def loader_memory(
    *,
    size: int,
    jpeg_bytes: float,
    pixel_bytes: int,
    decoded_at_once: int,
    batch_size: int,
    num_threads: int,
    prefetch: int,
    hw_decoder_load: float = 0.0,
) -> LoaderMemory:
    """Of a loader of images of `size` pixels on each side; `pixel_bytes`: 2 for float16, else 4.

    DALI has one decoded batch that is being copied to torch while `prefetch` more are ready or in the making; torch has
    the one that training batches are cut from, and the next.  The JPEG engines' share of a decoded batch is allocated
    before the first one, and the decoder that keeps the cache alive has a thread's memory too.
    """
    normalized = 3 * CROP**2 * pixel_bytes
    one = jpeg_bytes + 3 * size**2 + normalized
    each = (prefetch + 1) * one + 2 * normalized + hw_decoder_load * 3 * size**2
    threads = (num_threads + 1) * DECODER_THREAD
    if decoded_at_once == batch_size:
        return LoaderMemory(each, threads)
    return LoaderMemory(0.0, threads + int(each * decoded_at_once))


def memory_of_loader(
    dataset: Dataset, split: str, settings: LoaderSettings, dtype: torch.dtype, *, batch_size: int, decode_batch: int
) -> LoaderMemory:
    """`loader_memory` of a split's loader on a GPU; decode_batch: images that are decoded together."""
    content = dataset.split(split)
    return loader_memory(
        size=dataset.image_options.size,
        jpeg_bytes=content.bytes / content.samples,
        pixel_bytes=dtype.itemsize,
        decoded_at_once=decode_batch,
        batch_size=batch_size,
        num_threads=settings.num_threads,
        prefetch=settings.prefetch,
        hw_decoder_load=settings.hw_decoder_load if settings.decode_on == "engines" else 0.0,
    )


def plan_cache(asked: CacheSize, *, free: int, needed: int, samples: int, size: int) -> CachePlan:
    """How much to keep of `samples` images of `size` pixels on each side, and never more than all of them.

    free: free bytes of the GPU's memory.  needed: what training and the loader will take of them.
    Raises UsageError where more is asked for than is free.
    """
    image_bytes = 3 * size**2
    room = max(0, int((1 - LEFT_FREE) * free) - needed) // MIB
    if asked != "auto":
        if asked * GIB > free:
            raise UsageError(
                f"--cache-decoded {asked:g}: the GPU has {free / GIB:.1f} GiB free, and training is estimated to need "
                f"{needed / GIB:.1f} of them. --cache-decoded auto takes what is left, {room / 1024:.1f} GiB."
            )
        room = math.ceil(asked * 1024)
    return CachePlan(min(room, math.ceil(samples * image_bytes / MIB)), samples, image_bytes)
