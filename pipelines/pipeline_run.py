"""One run of a DALI pipeline: a fixed number of batches, as torch tensors."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.dlpack

from alexnet_fast.pipelines.dali import Pipeline, ReleaseUnusedMemory, TensorCPU, feed_ndarray, to_torch_type
from alexnet_fast.pipelines.decoding import Decoding, decode_nothing
from alexnet_fast.pipelines.diagnosis import Shards, altered, find_unusable
from alexnet_fast.pipelines.reader import READER
from alexnet_fast.tools.dataset import MANIFEST, Dataset
from alexnet_fast.tools.errors import UserError

# DALI's messages, and nvImageCodec's status codes (nvimgcodecStatus_t).  DALI's prefix "CUDA driver API error" precedes
# every failure on a GPU, and so is not matched.
NO_GPU = re.compile(
    "CUDA is not available|insufficient driver|driver version is insufficient|can(not|'t) (load|initialize) CUDA|"
    "failed to load CUDA driver|driver is a stub|no CUDA-capable device|CUDA_ERROR_NO_DEVICE|cudaErrorNoDevice",
    re.IGNORECASE,
)
OUT_OF_MEMORY = re.compile(
    "can(not|'t) allocate|could not allocate|failed to allocate|CUDA allocation failed|out of memory|bad_alloc|"
    r"nvImageCodec failure: '#(5|15)'",
    re.IGNORECASE,
)
UNUSABLE = re.compile(
    r"failed to decode|nvImageCodec failure: '#(3|4|13|14|19)'|cropping window .* is not valid", re.IGNORECASE
)
NAMED = re.compile(r"Failed to decode sample #\d+ : (?P<tar>.+):\d+:(?P<stem>[^:\n]+)\.jpg")


@dataclass(frozen=True)
class Execution:
    """How a pipeline runs; threads and prefetch change the speed and not what comes out."""

    batch_size: int
    device: torch.device
    num_threads: int
    prefetch: int
    """Batches that are ready or in the making ahead of the one in use."""
    cache_mib: int = 0
    """MiB of decoded images that are kept beside them."""


class PipelineRun:
    """A pipeline that decodes exactly `num_batches` batches: none is wasted at the end of an epoch."""

    def __init__(
        self,
        graph: Callable[[], tuple[Any, ...]],
        execution: Execution,
        num_batches: int,
        *,
        checkpointing: bool = False,
        checkpoint: bytes | None = None,
        shards: Shards | None = None,
    ) -> None:
        """shards: where to look for the image when one cannot be used."""
        self._execution = execution
        self._shards = shards
        self._device = execution.device
        self._remaining = num_batches
        depth = max(1, min(execution.prefetch, num_batches))
        self._to_schedule = num_batches - depth
        self._pipeline = Pipeline(
            batch_size=execution.batch_size,
            num_threads=execution.num_threads,
            device_id=device_id(execution.device),
            # Every operator that draws has a seed of its own; this one is never used.
            seed=0,
            prefetch_queue_depth=depth,
            enable_checkpointing=checkpointing,
            checkpoint=checkpoint,
        )
        try:
            with self._pipeline:
                self._pipeline.set_outputs(*graph())
            build(self._pipeline)
            if num_batches:
                self._pipeline.schedule_run()  # the first call schedules `depth` batches
        except (RuntimeError, MemoryError) as error:
            raise explained(error, execution, shards) from error

    @property
    def device(self) -> torch.device:
        return self._device

    def check_num_samples(self, dataset: Dataset, split: str, wanted: int) -> None:
        """UserError where the reader found another number of samples than the manifest: it would wrap or omit."""
        found = int(self._pipeline.reader_meta(READER)["epoch_size"])
        if found != wanted:
            raise UserError(
                f"{dataset.folder}: the indexes of its {split} split list {found:,} samples, {MANIFEST} says "
                f"{wanted:,}. `alexnet-fast verify` lists which files were altered."
            )

    def next(self) -> tuple[Any, ...]:
        """The next batch's outputs, DALI tensor lists.  On a GPU ordered on torch's current stream: no wait."""
        assert self._remaining > 0, "asked for more batches than the run has"
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        try:
            outputs = self._pipeline.share_outputs(stream)
            self._pipeline.release_outputs()
            if self._to_schedule > 0:
                self._pipeline.schedule_run()
        except (RuntimeError, MemoryError) as error:
            raise explained(error, self._execution, self._shards) from error
        self._remaining -= 1
        self._to_schedule -= 1
        return tuple(outputs)

    def check_size(self, pixels: Any) -> None:
        """UserError, naming it, where one of a batch's whole images has another size than was written."""
        assert self._shards is not None
        size = self._shards.size
        if any(shape != (size, size, 3) for shape in pixels.shape()):
            raise altered(search(self._shards) or f"an image has not {size}×{size} pixels")

    def checkpoint(self) -> bytes:
        """The state after the batch that `next` returned last."""
        return bytes(self._pipeline.checkpoint())

    def close(self) -> None:
        """End its threads and free its buffers; batches that were returned stay valid.

        DALI's destructor does it too, but Python drops what is raised there: a Ctrl-C in that time would be lost.
        """
        self._pipeline._shutdown()


class CacheKeeper:
    """Keeps DALI's cache of decoded images alive from one run to the next.

    DALI has one cache for each GPU of a process, which dies with the last decoder that uses it, and each run has a
    decoder of its own.  This one decodes nothing; it lasts.
    """

    def __init__(self, decoding: Decoding, execution: Execution) -> None:
        """execution: of the runs."""
        self._pipeline = Pipeline(
            batch_size=1, num_threads=1, device_id=device_id(execution.device), seed=0, prefetch_queue_depth=1
        )
        try:
            with self._pipeline:
                self._pipeline.set_outputs(decode_nothing(decoding))
            build(self._pipeline)
        except (RuntimeError, MemoryError) as error:
            raise explained(error, execution) from error


def build(pipeline: Any) -> None:
    """Build it, without DALI's warnings about which nothing can be done.

    That libraries of CUDA are missing which no graph of ours uses; that a part of a graph needs not all draws.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The external source node .* produces 3 outputs")
        warnings.filterwarnings("ignore", r".*no longer shipped with CUDA runtime.*(cuFFT|NPP)")
        pipeline.build()


def free_gpu_memory() -> None:
    """Give what DALI's pools hold and no pipeline uses back to the GPU: torch cannot have it otherwise."""
    ReleaseUnusedMemory()


def device_id(device: torch.device) -> int | None:
    """DALI's device id: None is the CPU."""
    if device.type == "cpu":
        return None
    return device.index if device.index is not None else torch.cuda.current_device()


def to_torch(output: Any) -> torch.Tensor:
    """(N, …), where all samples of the batch have one shape: DALI's own memory on a CPU, a copy on a GPU.

    DALI frees a GPU's memory in the order of its own streams, also where torch shares it: what torch has queued and
    not read yet would be written over.  Only for a copy that DALI makes do they wait; the host does not.
    """
    tensor = output.as_tensor()
    if isinstance(tensor, TensorCPU):
        return torch.utils.dlpack.from_dlpack(tensor)
    copy = torch.empty(tensor.shape(), dtype=to_torch_type[tensor.dtype], device=f"cuda:{tensor.device_id()}")
    feed_ndarray(tensor, copy, cuda_stream=torch.cuda.current_stream(copy.device))
    return copy


def explained(error: RuntimeError | MemoryError, execution: Execution, shards: Shards | None = None) -> UserError:
    """DALI's error as a UserError with a remedy."""
    text = str(error)
    # The text before it quotes our source, which must not be matched.
    reason = text.partition("encountered:")[2] or text
    first = next((line.strip() for line in reason.splitlines() if line.strip()), type(error).__name__)
    if NO_GPU.search(reason):
        return UserError(
            f"DALI finds no usable GPU for {execution.device} ({first}). Use `--device cpu`, or bring the NVIDIA "
            "driver up to date (nvidia-smi shows its version)."
        )
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(reason):
        kept, remedy = "", "Make"
        if execution.cache_mib:
            kept = f", beside {execution.cache_mib / 1024:.1f} GiB of decoded images"
            remedy = "Keep fewer decoded images (--cache-decoded), or make"
        return UserError(
            f"out of memory with {execution.batch_size} images a batch and a prefetch of {execution.prefetch} on "
            f"{execution.device}{kept} ({first}). {remedy} the batch or the prefetch smaller."
        )
    if shards is not None and (UNUSABLE.search(reason) or "readers.webdataset" in text):
        found = unusable(reason, shards)
        if found is not None:
            return altered(found)
    return UserError(f"DALI stopped: {first}")


def unusable(reason: str, shards: Shards) -> str | None:
    """ "tar: stem (why)" of the image that stopped DALI: the one it names, else the first that Pillow finds."""
    if named := NAMED.search(reason):
        return f"{named['tar']}: {named['stem']} (it cannot be decoded)"
    return search(shards)


def search(shards: Shards) -> str | None:
    """ "tar: stem (why)" of the first image that cannot be used; None where there is none."""
    print("An image cannot be used; looking for it in all shards …", file=sys.stderr, flush=True)
    return find_unusable(shards)
