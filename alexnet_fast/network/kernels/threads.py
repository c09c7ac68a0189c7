"""Run a compiled loop in as many threads as torch uses on the CPU.

Each thread takes the next piece when it has finished one: where another program holds a core, the other threads do its
share.  Waiting threads sleep.  The result does not depend on which thread does which piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from alexnet_fast.tools.compilation import prepare

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)


def share(
    loop: Callable[..., None], arguments: tuple[object, ...], count: int, piece: int, options: tuple[object, ...]
) -> None:
    """loop(*arguments, first, last, *options) over 0..count−1, in pieces of so many."""
    if count == 0:
        return
    prepare(loop, (*arguments, 0, count, *options))
    starts = iter(range(0, count, piece))  # the thread that holds the GIL takes the next

    def work() -> None:
        for first in starts:
            loop(*arguments, first, min(first + piece, count), *options)

    num_helpers = min(torch.get_num_threads(), -(-count // piece)) - 1
    helpers = [pool(num_helpers).submit(work) for _ in range(num_helpers)]
    work()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun by now has nothing left to do
            helper.result()


def pool(num_threads: int) -> ThreadPoolExecutor:
    """The same one for the same number, from step to step."""
    if num_threads not in _pools:
        _pools[num_threads] = ThreadPoolExecutor(num_threads, "kernels")
    return _pools[num_threads]
