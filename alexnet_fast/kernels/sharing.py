"""Work on a CPU in blocks that stay in its cache, each block by one thread from its first operation to its last.

torch's own threads meet after every operation, and where another process has one of the cores, each meeting waits until
the system lets the other thread run again: with the update's thousand blocks a step took seconds.  Here they meet once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

Work = Callable[[Iterator[slice]], None]
"""Handles the pieces that the iterator gives; other threads take from it too."""


def share(num: int, size: int, work: Work) -> None:
    """Let torch's number of threads do `work` on 0..num in pieces of `size`; whoever is done takes the next piece."""
    pieces = iter([slice(first, min(first + size, num)) for first in range(0, num, size)])
    num_threads = min(torch.get_num_threads(), -(-num // size))
    if num_threads <= 1:
        work(pieces)
        return
    futures = [threads(torch.get_num_threads()).submit(without_gradients, work, pieces) for _ in range(num_threads)]
    for future in futures:
        future.result()


def without_gradients(work: Work, pieces: Iterator[slice]) -> None:
    """Whether torch records operations is a setting of each thread."""
    with torch.no_grad():
        work(pieces)


@lru_cache(maxsize=1)
def threads(num: int) -> ThreadPoolExecutor:
    """`num` threads whose torch operations start no further threads."""
    pool = ThreadPoolExecutor(num, "alexnet-fast-block")
    ready = threading.Barrier(num + 1)

    def prepare() -> None:
        torch.set_num_threads(1)
        ready.wait()

    for _ in range(num):
        pool.submit(prepare)
    ready.wait()
    torch.set_num_threads(num)  # a thread's setting is also that of threads to come
    return pool
