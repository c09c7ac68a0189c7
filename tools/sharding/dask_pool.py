"""Shards made by the workers of a Dask cluster, behind the interface of the local pool."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.image import program_version
from alexnet_fast.tools.sharding.plan import ShardTask
from alexnet_fast.tools.sharding.worker import ShardRecord, make_shard

CONNECT_SECONDS = 10
"""A scheduler that runs on this network answers in much less."""


class ClusterPool:
    """The workers of a scheduler.  They need this package, and the source and the output under the same names.

    Dask gives the shard of a lost worker to another (as often as its setting `allowed-failures` says).  An error of the
    work itself is not tried again: a bad image stays bad, a full disk full.
    """

    def __init__(self, client: Any, address: str) -> None:
        self.client = client
        self.address = address
        self.executor = client.get_executor(pure=False, retries=0)
        self.num_workers = sum(client.nthreads().values())

    def submit(self, task: ShardTask) -> Future[ShardRecord]:
        done: Future[ShardRecord] = self.executor.submit(make_shard_here, task, program_version())
        return done

    def counts(self) -> tuple[int, int] | None:
        return None

    def check_programs(self) -> None:
        """UserError where a worker has another version of what makes the bytes, or no such package."""
        ours = program_version()
        try:
            theirs: dict[str, str] = self.client.run(program_version)
        except Exception as error:  # whatever a worker without the package answers with
            raise UserError(
                f"--cluster {self.address}: the workers cannot run this program ({type(error).__name__}: {error}). "
                "Install alexnet-fast where they run, and start them again."
            ) from error
        for worker, program in theirs.items():
            if program != ours:
                raise UserError(other_program(worker, program, ours))


def other_program(worker: str, theirs: str, ours: str) -> str:
    """What is wrong with a worker of another version."""
    return (
        f"The worker {worker} runs {theirs}; here runs {ours}. Shards of both together would not be the same bytes "
        "again: install the same versions, and start the worker again."
    )


def make_shard_here(task: ShardTask, program: str) -> ShardRecord:
    """What a worker does; progress is reported for whole shards.  A worker may have come after the versions' check."""
    if program_version() != program:
        from distributed import get_worker

        raise UserError(other_program(get_worker().address, program_version(), program))
    return make_shard(task, lambda images, num_bytes: None)


def check_scheduler(address: str) -> None:
    """UsageError where no scheduler answers at an address.

    Asked before anything is begun, and before there is a `Client`: one that reaches nothing takes long to give up, and
    one that reaches another kind of server never does.
    """
    try:
        import distributed
    except ImportError as error:
        raise UsageError("--cluster needs the package distributed: pip install 'alexnet-fast[cluster]'.") from error

    async def identity() -> dict[str, Any]:
        arguments = distributed.Security().get_connection_args("client")  # type: ignore[no-untyped-call]
        async with distributed.rpc(address, connection_args=arguments) as server:  # type: ignore[no-untyped-call]
            found: dict[str, Any] = await server.identity()
            return found

    try:
        kind = asyncio.run(asyncio.wait_for(identity(), CONNECT_SECONDS))["type"]
    except Exception as error:  # whatever stands in the way, from names without an address to other servers' answers
        raise no_scheduler(address, str(error) or f"no answer in {CONNECT_SECONDS:g} s") from error
    if kind != "Scheduler":
        raise no_scheduler(address, f"it is the address of a {kind}")


def no_scheduler(address: str, reason: object) -> UsageError:
    return UsageError(
        f"--cluster {address}: no scheduler answers there ({reason}). Start one with `dask scheduler`, and give the "
        "address that it prints, such as tcp://host:8786."
    )


@contextmanager
def cluster_pool(address: str) -> Iterator[ClusterPool]:
    """The cluster at a scheduler's address, such as tcp://host:8786, while the block lasts."""
    check_scheduler(address)
    import distributed

    try:
        client: Any = distributed.Client(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise no_scheduler(address, error) from error
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # of a lost scheduler it prints a traceback; we say it in a sentence
    try:
        pool = ClusterPool(client, address)
        if pool.num_workers == 0:
            raise UserError(
                f"--cluster {address}: the scheduler has no workers. Start some: `dask worker {shlex.quote(address)}`."
            )
        pool.check_programs()
        yield pool
    except distributed.KilledWorker as error:
        raise UserError(
            f"--cluster {address}: every worker that was given a shard was lost over it, perhaps killed by its system "
            "for want of memory. Give the workers more memory or fewer threads, then run the same command again to "
            "resume."
        ) from error
    except CancelledError as error:  # only a client without its scheduler cancels what nobody cancelled
        raise UserError(
            f"--cluster {address}: the scheduler is gone, or cannot be reached any more. Start it and its workers "
            "again, then run the same command with its address to resume."
        ) from error
    finally:
        client.close()
        logger.setLevel(level)
