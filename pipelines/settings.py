"""A loader's performance settings: defaults, those tuned for this machine, and the checks of arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.pipelines.decoding import PLACES, DecodeOn
from alexnet_fast.tools import atomic
from alexnet_fast.tools.cores import chosen_threads, num_sharing, processor_name, usable_cores
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError

MOST_THREADS = 4096
MOST_PREFETCH = 1024
MOST_DECODED = 65_536
"""Larger values are taken for typing errors: each thread and each prefetched batch takes memory."""
GPU_DECODE_BATCH = 1024
"""Images: of small batches DALI's operators take as long as of large ones."""


@dataclass(frozen=True)
class LoaderSettings:
    """What decides the speed of a loader; UsageError where it is out of range.

    Threads and prefetch change nothing of what it gives; on a GPU `hw_decoder_load` changes by which decoder each
    image is decoded, and so its pixels a little.
    """

    num_threads: int
    prefetch: int
    """Decoded batches ahead of the one in use."""
    hw_decoder_load: float = 0.65
    """Share of a batch for the GPU's JPEG engines, 0..1; means nothing on a CPU."""
    decode_on: DecodeOn = "engines"
    """Means nothing on a CPU."""
    decode_batch: int = 1
    """Images that are decoded together, about: a multiple of the training batch that is near."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_threads <= MOST_THREADS:
            raise UsageError(f"{self.num_threads} loader threads: give 1 to {MOST_THREADS:,}.")
        if not 1 <= self.prefetch <= MOST_PREFETCH:
            raise UsageError(f"a prefetch of {self.prefetch} batches: give 1 to {MOST_PREFETCH:,}.")
        if not 0 <= self.hw_decoder_load <= 1:
            raise UsageError(
                f"hw_decoder_load {self.hw_decoder_load}: it is the share of the JPEG engines, give 0 to 1."
            )
        if self.decode_on not in PLACES:
            raise UsageError(f"decode_on {self.decode_on!r}: choose {', '.join(PLACES)}.")
        if not 1 <= self.decode_batch <= MOST_DECODED:
            raise UsageError(f"a decode batch of {self.decode_batch} images: give 1 to {MOST_DECODED:,}.")

    def fitting_batch(self, batch_size: int, num_batches: int) -> int:
        """Images to decode together: a multiple of `batch_size` near `decode_batch` that leaves few decoded images
        unused.

        num_batches: training batches of an epoch.
        """
        times = min(num_batches, max(1, round(num_batches * batch_size / self.decode_batch)))
        return -(-num_batches // times) * batch_size


@dataclass(frozen=True)
class LoaderOptions:
    """What a caller asks for of `LoaderSettings`; None: what was found best for this machine, else a default."""

    num_threads: int | None = None
    prefetch: int | None = None
    hw_decoder_load: float | None = None
    decode_on: DecodeOn | None = None
    decode_batch: int | None = None

    def settings(self, device: torch.device) -> LoaderSettings:
        """Filled up with what `remember` kept for this machine, else with defaults."""
        known = remembered(device) or default_settings(device)
        threads = chosen_threads()
        known = replace(known, num_threads=threads or max(1, known.num_threads // num_sharing()))
        return replace(known, **{name: value for name, value in asdict(self).items() if value is not None})


def default_settings(device: torch.device) -> LoaderSettings:
    """Of a machine that was not tuned."""
    on_gpu = device.type != "cpu"
    return LoaderSettings(usable_cores(), 2, decode_batch=GPU_DECODE_BATCH if on_gpu else 1)


def settings_file() -> Path:
    """Where the best settings of this user's machines are kept; UserError where this user has no home directory."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(cache) if cache else Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError("this user has no home directory to keep settings in. Set XDG_CACHE_HOME.") from error
    return folder / "alexnet-fast" / "loader.json"


def machine_key(device: torch.device) -> str:
    """What the settings were found for: processor, cores, kind of device.  No host name: containers get a new one."""
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{processor_name()}, {usable_cores()} cores, {what}"


def remembered(device: torch.device) -> LoaderSettings | None:
    """What `remember` kept for this machine and device; None: nothing, or nothing that can be used."""
    try:
        kept = stored_settings(settings_file()).get(machine_key(device))
    except UserError:
        return None  # no settings file: defaults
    if not isinstance(kept, dict):
        return None
    kinds: dict[str, tuple[type, ...]] = {"hw_decoder_load": (int, float), "decode_on": (str,)}
    if kept.keys() != {field.name for field in fields(LoaderSettings)}:
        return None  # of another release
    if any(type(value) not in kinds.get(name, (int,)) for name, value in kept.items()):
        return None
    try:
        return LoaderSettings(**kept)
    except UsageError:
        return None


def stored_settings(file: Path) -> dict[str, Any]:
    """Machine -> settings, unchecked; empty where the file cannot be read: it is a cache, to be made anew."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(device: torch.device, settings: LoaderSettings) -> Path:
    """Keep the best settings for this machine and device; the file."""
    return store_settings({machine_key(device): asdict(settings)})


def store_settings(new: Mapping[str, Any]) -> Path:
    """Write what the file has and these; the file.  UserError where it cannot be written."""
    file = settings_file()
    content = {**stored_settings(file), **new}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, json.dumps(content, indent=1))
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({error.strerror}). Set XDG_CACHE_HOME to another folder."
        ) from error
    return file


def check_share(dataset: Dataset, split: str, *, batch_size: int, rank: int, num_ranks: int) -> None:
    """UsageError where the images are too small, or a split cannot give at least one to each of so many ranks."""
    size = dataset.image_options.size
    if size < CROP:  # DALI would cut outside the image, and the process would abort
        raise UsageError(
            f"{dataset.folder}: its images have {size}×{size} pixels, and the network takes {CROP}×{CROP}. "
            f"Shard again with --size {CROP} or more (256, unless you have a reason)."
        )
    samples = dataset.split(split).samples
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: give 1 or more.")
    if num_ranks < 1:
        raise UsageError(f"{num_ranks} ranks: give 1 or more.")
    if not 0 <= rank < num_ranks:
        raise UsageError(f"rank {rank} of {num_ranks}: ranks count from 0 to {num_ranks - 1}.")
    if num_ranks > samples:
        raise UsageError(f"{dataset.folder}: its {split} split has {samples} samples for {num_ranks} ranks. Use fewer.")


def check_batch(dataset: Dataset, split: str, *, batch_size: int, rank: int, num_ranks: int) -> None:
    """UsageError where a split does not fill one batch of `batch_size` on each of so many ranks."""
    check_share(dataset, split, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
    samples = dataset.split(split).samples
    if batch_size * num_ranks > samples:
        whole = f"{batch_size} on each of {num_ranks} ranks" if num_ranks > 1 else f"{batch_size}"
        raise UsageError(
            f"{dataset.folder}: its {split} split has {samples} samples, less than one batch of {whole}. "
            f"Use a batch of at most {samples // num_ranks}."
        )


def check_splits(
    dataset: Dataset,
    *,
    batch_size: int,
    num_ranks: int,
    num_evaluation_ranks: int,
    evaluated: Sequence[str] = ("val",),
) -> None:
    """UsageError where a run cannot be given its images: to be known before its processes are started.

    The train split must fill a batch of `batch_size` on each of `num_ranks`; the splits `evaluated`, where there are
    such, have a sample for each of `num_evaluation_ranks`.
    """
    check_batch(dataset, "train", batch_size=batch_size, rank=0, num_ranks=num_ranks)
    for split in (split for split in evaluated if split in dataset.splits):
        check_share(dataset, split, batch_size=1, rank=0, num_ranks=num_evaluation_ranks)
