"""The same bytes from a Dask cluster, one of whose workers is killed; whatever else goes wrong there is shown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.dask_pool import ClusterPool, cluster_pool
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.storage.output import Output, open_output
from tests.tools.shard_helpers import digests, run

distributed = pytest.importorskip("distributed")

START = [sys.executable, "-m"]


def start_scheduler() -> tuple[subprocess.Popen[str], str]:
    """A scheduler's process, and its address."""
    command = [*START, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert scheduler.stderr is not None
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    threading.Thread(target=scheduler.stderr.read, daemon=True).start()
    return scheduler, address


def start_worker(address: str, *options: str) -> subprocess.Popen[str]:
    command = [*START, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def wait_for_workers(address: str, count: int) -> None:
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)


def stop(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def kill_after_a_shard(process: subprocess.Popen[str], output: Output) -> threading.Thread:
    """A thread that kills the process as soon as the output holds a shard."""

    def kill() -> None:
        while not any(name.endswith(".tar") for name in output.names()):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A scheduler and two workers, processes of their own."""
    scheduler, address = start_scheduler()
    workers = [start_worker(address) for _ in range(2)]
    wait_for_workers(address, 2)
    yield address, workers
    stop(*workers, scheduler)


def test_a_cluster_that_loses_a_worker_makes_the_same_shards(
    cluster: tuple[str, list[subprocess.Popen[str]]], images: Path, unbroken: Path, tmp_path: Path
) -> None:
    address, workers = cluster
    output = open_output(tmp_path / "shards")
    killer = kill_after_a_shard(workers[0], output)
    run(images, output, pool=partial(cluster_pool, address))
    killer.join()
    assert workers[0].wait(10) == -signal.SIGKILL
    assert digests(tmp_path / "shards") == digests(unbroken)


def test_a_worker_of_another_version_is_refused(cluster: tuple[str, list[subprocess.Popen[str]]]) -> None:
    address, workers = cluster
    other = start_worker(address, "--preload", "from alexnet_fast.tools import version; version.__version__ = '0.0'")
    wait_for_workers(address, sum(worker.poll() is None for worker in (*workers, other)))
    with pytest.raises(UserError, match=r"runs alexnet-fast 0\.0, .*; here runs alexnet-fast "), cluster_pool(address):
        pass
    stop(other)


def test_a_lost_scheduler_is_told(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scheduler, address = start_scheduler()
    worker = start_worker(address)
    wait_for_workers(address, 1)
    output = open_output(tmp_path / "shards")
    killer = kill_after_a_shard(scheduler, output)
    with pytest.raises(UserError, match=f"{address}: the scheduler is gone"):
        run(images, output, pool=partial(cluster_pool, address))
    killer.join()
    stop(worker, scheduler)
    assert "Traceback" not in capfd.readouterr().err


@pytest.fixture
def own_workers() -> Iterator[Any]:
    """A cluster in this process, so that a test can see what its workers do."""
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0", set_as_default=False
    ) as client:
        yield client


def test_an_error_of_the_work_is_not_tried_again(
    own_workers: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def fail(task: Any, count: Any) -> None:
        made.append(task.name)
        raise UserError("the disk is full")

    monkeypatch.setattr("alexnet_fast.tools.sharding.dask_pool.make_shard", fail)
    with pytest.raises(UserError, match="the disk is full"):
        run(images, tmp_path / "shards", pool=lambda: nullcontext(ClusterPool(own_workers, "tcp://here")))
    own_workers.close()  # waits for the second of the two that were under way
    assert sorted(made) == sorted(set(made)) and made


def test_a_worker_that_came_later_with_another_version_is_refused(
    own_workers: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ClusterPool(own_workers, "tcp://here")

    def version() -> str:  # the worker has a thread of its own
        return "ours" if threading.current_thread() is threading.main_thread() else "theirs"

    monkeypatch.setattr("alexnet_fast.tools.sharding.dask_pool.program_version", version)
    with pytest.raises(UserError, match=r"The worker \S+ runs theirs; here runs ours"):
        run(images, tmp_path / "shards", pool=lambda: nullcontext(pool))


def test_a_worker_with_a_disk_of_its_own_is_told(images: Path, tmp_path: Path) -> None:
    elsewhere = open_output(tmp_path / "other disk")

    @contextmanager
    def strayed_pool() -> Iterator[Any]:
        elsewhere.prepare()
        with local_pool(1) as pool:
            submit = pool.submit
            pool.submit = lambda task: submit(replace(task, output=elsewhere))  # type: ignore[method-assign]
            yield pool

    with pytest.raises(UserError, match=r"train-000000\.tar is not there, .* folder that all of them share"):
        run(images, tmp_path / "shards", pool=strayed_pool)


def test_no_scheduler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.tools.sharding.dask_pool.CONNECT_SECONDS", 0.5)
    with pytest.raises(UsageError, match="no scheduler answers there"), cluster_pool("tcp://127.0.0.1:9"):
        pass
    with pytest.raises(UsageError, match="no scheduler answers there"), cluster_pool("nonsense://"):
        pass


@pytest.mark.parametrize("address", ["x", "nonsense://", "tcp://127.0.0.1:{port}"])
def test_no_scheduler_is_told_before_anything_is_begun(
    address: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where another server listens, which never answers."""
    monkeypatch.setattr("alexnet_fast.tools.sharding.dask_pool.CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = address.format(port=server.getsockname()[1])
        with pytest.raises(SystemExit) as ended:
            main(["shard", str(images), "--out", str(tmp_path / "shards"), "--cluster", place])
    shown = capfd.readouterr().err
    assert ended.value.code == 2 and not (tmp_path / "shards").exists()
    assert shown.startswith(f"alexnet-fast: --cluster {place}: no scheduler answers there") and shown.count("\n") == 1
