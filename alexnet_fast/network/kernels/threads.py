"""Sharing a compiled loop's work among as many threads as torch has on the CPU.

The threads take piece after piece, each when it has finished the one before: where another program holds a core, the
others do its share.  Who waits, sleeps.  Which thread does a piece changes nothing of the result.
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
    starts = iter(range(0, count, piece))  # whoever holds Python's lock takes the next

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
