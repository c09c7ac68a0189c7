"""The command that resumes a run: a run prints it when it stops, and `info` long after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_fast.distributed.torchrun_env import started_processes
from alexnet_fast.tools.cores import chosen_threads
from alexnet_fast.tools.messages import command

THE_SAME = "the same torchrun command"
"""Processes that torchrun starts again resume by themselves; the command that started torchrun is not known here."""


def options_to_repeat(
    *,
    device: str | None,
    gpus: int | None,
    processes: int | None,
    parallel: str,
    deterministic: bool,
    cache_decoded: str | float | None,
) -> tuple[str, ...] | None:
    """Of `train`'s options those that the run's folder does not hold; None where torchrun started the processes."""
    if started_processes() is not None:
        return None
    given = {
        "--device": device,
        "--gpus": gpus,
        "--processes": processes,
        "--parallel": None if parallel == "auto" else parallel,
        "--cache-decoded": cache_decoded,
        "--threads": chosen_threads(),
    }
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return (*words, "--deterministic") if deterministic else tuple(words)


def resume_command(data: Path | str, run: Path, options: Sequence[str] | None) -> str:
    """`alexnet-fast train shards --resume --out runs/2013`, which can be copied; options: `options_to_repeat`."""
    return THE_SAME if options is None else command("train", data, "--resume", "--out", run, *options)
