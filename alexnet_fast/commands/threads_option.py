"""`--threads`: how many of a machine's cores a command uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from alexnet_fast.tools.cores import choose_threads
from alexnet_fast.tools.errors import UsageError

WORKERS = ("--workers", "--num-workers")
"""What PyTorch's users type; `shard` and `verify`, which start processes, have the first as an option of their own."""


def threads_option(*, expose: bool = False) -> Callable[[Any], Any]:
    """The option, which holds for the network and the loader of each process; `expose`: as an argument too."""

    def choose(context: click.Context, option: click.Parameter, number: int | None) -> int | None:
        if number is not None:
            choose_threads(number)
        return number

    threads = click.option(
        "--threads",
        type=click.IntRange(1, 4096),
        default=None,
        callback=choose,
        expose_value=expose,
        help="CPU threads of each process, for the network and for the loader.  [default: one for each core]",
    )
    workers = click.option(*WORKERS, hidden=True, expose_value=False, callback=refuse_workers)
    return lambda function: threads(workers(function))


def refuse_workers(context: click.Context, option: click.Parameter, number: str | None) -> None:
    """UsageError with the option that is meant: a DALI loader has threads where a `DataLoader` has processes."""
    if number is not None:
        raise UsageError(
            f"--workers {number}: the loader decodes in threads of this process, not in worker processes; "
            f"did you mean --threads {number}?"
        )
