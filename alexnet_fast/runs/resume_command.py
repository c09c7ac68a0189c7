"""The command that resumes a run; `train` prints it when it stops, `info` at any later time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_fast.distributed.torchrun_env import started_processes
from alexnet_fast.tools.cores import chosen_threads
from alexnet_fast.tools.messages import command, to_copy

THE_SAME = "the same torchrun command"
"""Processes that torchrun restarts resume by themselves; its own command line is not known here."""


def options_to_repeat(
    *,
    device: str | None,
    gpus: int | None,
    processes: int | None,
    parallel: str,
    deterministic: bool,
    cache_decoded: str | float | None,
) -> tuple[str, ...] | None:
    """The options of `train` that the run's folder does not record; None where torchrun started the processes."""
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
    options = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    return (*options, "--deterministic") if deterministic else tuple(options)


def with_command(sentence: str, again: str) -> str:
    """A message that ends in a command, on a line of its own with nothing around it, ready to be copied."""
    return f"{sentence}:\n{to_copy(again)}"


def resume_command(data: Path | str, run: Path, options: Sequence[str] | None) -> str:
    """`alexnet-fast train shards --resume --out runs/2013`, ready to copy; options: those of `options_to_repeat`."""
    return THE_SAME if options is None else command("train", data, "--resume", "--out", run, *options)
