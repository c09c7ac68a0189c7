"""Shards made by the workers of a Dask cluster, behind the interface of the local pool."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.plan import ShardTask
from alexnet_fast.tools.shard_worker import ShardRecord, make_shard
from alexnet_fast.tools.workers import LostWorkerError

CONNECT_SECONDS = 10
RETRIES = 3
"""How often a shard whose worker is lost is given to another."""


class ClusterPool:
    """The workers of a scheduler.  They need this package, and the source and the output under the same names."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.num_workers = sum(client.nthreads().values())

    def submit(self, task: ShardTask) -> Future[ShardRecord]:
        result: Future[ShardRecord] = Future()
        remote = self.client.submit(make_shard_here, task, pure=False, retries=RETRIES)

        def pass_on(finished: Any) -> None:
            if finished.status == "finished":
                result.set_result(finished.result())
            elif finished.status == "cancelled":
                result.set_exception(LostWorkerError())
            else:
                error = finished.exception()
                result.set_exception(LostWorkerError() if type(error).__name__ == "KilledWorker" else error)

        remote.add_done_callback(pass_on)
        return result

    def counts(self) -> tuple[int, int] | None:
        return None

    def stop(self) -> None:
        self.client.close()


def make_shard_here(task: ShardTask) -> ShardRecord:
    """What a worker does; who watches is told of whole shards."""
    return make_shard(task, lambda pictures, num_bytes: None)


@contextmanager
def cluster_pool(address: str) -> Iterator[ClusterPool]:
    """The cluster at a scheduler's address, such as tcp://host:8786, while the block lasts."""
    try:
        import distributed
    except ImportError as error:
        raise UsageError("--cluster needs the package distributed: pip install 'alexnet-fast[cluster]'.") from error
    try:
        client: Any = distributed.Client(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UsageError(
            f"--cluster {address}: no scheduler answers there ({error}). Start one with `dask scheduler`, and give the "
            "address that it prints."
        ) from error
    try:
        pool = ClusterPool(client)
        if pool.num_workers == 0:
            raise UserError(f"--cluster {address}: the scheduler has no workers. Start some: `dask worker {address}`.")
        yield pool
    finally:
        client.close()
