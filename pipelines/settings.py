"""How a loader runs on this machine when nobody says how, and whether what was asked for can be."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError


@dataclass(frozen=True)
class LoaderSettings:
    """What changes the speed of a loader and not what it gives."""

    num_threads: int
    prefetch: int
    hw_decoder_load: float
    """Share of a batch for the GPU's JPEG engines, 0..1; means nothing on a CPU."""


def default_settings(
    device: torch.device, num_threads: int | None, prefetch: int | None, hw_decoder_load: float | None
) -> LoaderSettings:
    """What was asked for, filled up with what `remember` kept for this machine, else with defaults."""
    if num_threads is not None and num_threads < 1:
        raise UsageError(f"{num_threads} loader threads: give 1 or more.")
    known = remembered(device) or LoaderSettings(len(os.sched_getaffinity(0)), 2, 0.65)
    return LoaderSettings(
        num_threads=num_threads if num_threads is not None else max(1, known.num_threads // local_processes()),
        prefetch=prefetch if prefetch is not None else known.prefetch,
        hw_decoder_load=hw_decoder_load if hw_decoder_load is not None else known.hw_decoder_load,
    )


def settings_file() -> Path:
    """Where the best settings of this user's machines are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "alexnet-fast" / "loader.json"


def machine_key(device: torch.device) -> str:
    """What the settings were found for: host, cores, kind of device."""
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{platform.node()}, {len(os.sched_getaffinity(0))} cores, {what}"


def remembered(device: torch.device) -> LoaderSettings | None:
    """What `remember` kept for this machine and device; None: nothing, or nothing that can be read."""
    try:
        kept = json.loads(settings_file().read_text(encoding="utf-8"))[machine_key(device)]
        return LoaderSettings(int(kept["num_threads"]), int(kept["prefetch"]), float(kept["hw_decoder_load"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a cache: without it there are defaults


def remember(device: torch.device, settings: LoaderSettings) -> Path:
    """Keep the best settings for this machine and device; the file."""
    file = settings_file()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    content[machine_key(device)] = asdict(settings)
    aside = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
        aside.replace(file)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({error.strerror}). Set XDG_CACHE_HOME to another folder."
        ) from error
    return file


def num_cores() -> int:
    """Cores that this process may use, shared evenly among the processes of this machine."""
    return max(1, len(os.sched_getaffinity(0)) // local_processes())


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_share(dataset: Dataset, split: str, *, batch_size: int, rank: int, num_ranks: int) -> None:
    """UsageError where a split cannot be given out to so many ranks, at least one sample to each."""
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
