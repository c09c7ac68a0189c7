"""Worker processes behind the interface of concurrent.futures, so that a cluster's workers can stand in for them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Protocol, TypeVar

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.freed_memory import keep_freed_blocks
from alexnet_fast.tools.sharding.plan import ShardTask
from alexnet_fast.tools.sharding.worker import ShardRecord, make_shard

Result = TypeVar("Result")


MOST_WORKERS = 1024
"""More are a slip of the keyboard: each holds 80 to 170 MB."""


class Pool(Protocol):
    """Makes shards."""

    num_workers: int

    def submit(self, task: ShardTask) -> Future[ShardRecord]:
        """Begin a shard."""

    def counts(self) -> tuple[int, int] | None:
        """(images, source bytes) done so far, unfinished shards included; None: only finished ones are counted."""


class LostWorkerError(Exception):
    """A worker process has ended without an exception."""


@contextmanager
def starting() -> Iterator[None]:
    """What keeps workers from being started, as a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Worker processes cannot be started ({error.strerror or error}). Make room in /dev/shm and in the "
            "temporary folder, allow more processes and open files, or give fewer --workers; then run the same command "
            "again."
        ) from error


def start_quiet_tracker() -> None:
    """Start multiprocessing's process that clears semaphores away after a kill; it need not write over the terminal."""
    options = sys.warnoptions[:]
    sys.warnoptions.append("ignore:resource_tracker")  # it inherits them, and says what it clears away by a warning
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = options


class ProcessPool:
    """Worker processes of this machine.  They are spawned: a fork would inherit locks and threads in any state."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        start_quiet_tracker()
        context = multiprocessing.get_context("spawn")
        self._images = context.Value("q", 0)
        self._bytes = context.Value("q", 0)
        self._others = set(multiprocessing.active_children())
        self._executor = ProcessPoolExecutor(num_workers, context, _begin_worker, (self._images, self._bytes))

    def submit(self, task: ShardTask) -> Future[ShardRecord]:
        return self.call(_work, task)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Begin any call; function and arguments must be picklable."""
        # Workers inherit the blocked signal: Ctrl-C goes to every process of a terminal, but only this one handles it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with starting():
                return self._executor.submit(function, *arguments)
        except BrokenProcessPool as error:
            raise LostWorkerError from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def counts(self) -> tuple[int, int] | None:
        # Without the locks, which a killed worker may hold for ever.
        return self._images.get_obj().value, self._bytes.get_obj().value

    def stop(self) -> None:
        """Stop everything at once; nothing half-written gets a final name."""
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        self._executor.shutdown(wait=True)


@contextmanager
def local_pool(num_workers: int) -> Iterator[ProcessPool]:
    """Workers of this machine while the block lasts; they are stopped when it ends by an exception."""
    with starting():
        pool = ProcessPool(num_workers)
    try:
        yield pool
    except BaseException:
        pool.stop()
        raise
    pool.close()


_counters: tuple[Synchronized[int], Synchronized[int]] | None = None


def _begin_worker(images: Synchronized[int], num_bytes: Synchronized[int]) -> None:
    global _counters
    _counters = (images, num_bytes)
    keep_freed_blocks()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent has ended, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(task: ShardTask) -> ShardRecord:
    return make_shard(task, _count)


def _count(images: int, num_bytes: int) -> None:
    assert _counters is not None
    for counter, done in zip(_counters, (images, num_bytes), strict=True):
        with counter.get_lock():
            counter.value += done
