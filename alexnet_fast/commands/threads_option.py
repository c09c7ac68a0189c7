"""`--threads`: how many of a machine's cores a command uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from alexnet_fast.tools.cores import choose_threads


def threads_option(*, expose: bool = False) -> Callable[[Any], Any]:
    """The option, which holds for the network and the loader of each process; `expose`: as an argument too."""

    def choose(context: click.Context, option: click.Parameter, number: int | None) -> int | None:
        if number is not None:
            choose_threads(number)
        return number

    return click.option(
        "--threads",
        type=click.IntRange(1, 4096),
        default=None,
        callback=choose,
        expose_value=expose,
        help="CPU threads of each process, for the network and for the loader.  [default: one for each core]",
    )
