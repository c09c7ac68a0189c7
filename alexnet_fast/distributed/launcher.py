"""Start the processes of a run, watch them, and end them all when one fails.

As torchrun does, but inside the command: a user types `alexnet-fast train --gpus 2` and sees one message when one of
the processes dies, within seconds.  Under torchrun itself every process takes its place from the environment.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from alexnet_fast.distributed.devices import start_gpu, use_device
from alexnet_fast.distributed.mesh import Mesh, join_mesh
from alexnet_fast.distributed.parallelism import Layout, different_kinds
from alexnet_fast.distributed.signals import StopSignals
from alexnet_fast.distributed.threads import use_threads
from alexnet_fast.distributed.torchrun_env import LauncherEnv, launcher_env, local_world_size, set_launcher
from alexnet_fast.tools.cores import share_machine
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.streams import quiet_errors

Result = TypeVar("Result")


SETTLE_SECONDS = 1.0
"""After the first failure, how long the others may report theirs: that a process is lost often comes first."""
STOP_SECONDS = 5.0
"""After that, how long a process may take to end before it is killed."""


class LostProcessError(UserError):
    """A process ended without a report; the last checkpoint remains."""


@dataclass
class Worker:
    """One process that `launch` started."""

    rank: int
    process: BaseProcess
    reports: Connection
    report: Report | None = None


@dataclass(frozen=True)
class Report:
    """The report of a process at its end."""

    result: object = None
    error: UserError | KeyboardInterrupt | None = None
    failure: str = ""
    """The traceback of an exception that is no UserError."""
    moment: float = field(default_factory=time.monotonic)
    """Seconds on the machine's clock: the earliest failure is the cause of the others."""

    @property
    def failed(self) -> bool:
        return self.error is not None or bool(self.failure)


def launch(layout: Layout, work: Callable[..., Result], *arguments: Any) -> Result:
    """Call `work(mesh, device, *arguments)` in every process of the layout; what rank 0's returned.

    One process: in this one.  Several: started here; `work` (a module's function), the arguments and the result are
    pickled.  Under torchrun: in this one, with its place from the environment, and its own result.

    Raises what `work` raised if that is a UserError; a UserError that names the process if it died or failed otherwise.
    """
    if layout.num_processes == 1:
        return work(Mesh(), use_device(str(layout.device)), *arguments)
    if layout.started:
        return take_part(layout, work, arguments)
    with StopSignals() as stop, start_workers(layout, work, arguments) as workers:
        watch(workers, layout, stop)
    report = workers[0].report
    assert report is not None
    return report.result  # type: ignore[return-value]


def take_part(layout: Layout, work: Callable[..., Result], arguments: Sequence[Any]) -> Result:
    """Join the mesh, call `work`, leave the mesh."""
    share_machine(local_world_size())
    device = layout.device
    if device.type == "cuda":
        env = launcher_env()
        assert env is not None
        device = torch.device("cuda", env.local_rank)
        if device.index >= torch.cuda.device_count():
            raise UsageError(
                f"process {env.rank} has no GPU: torchrun started {env.local_world_size} "
                f"processes on this machine and it has {torch.cuda.device_count()}. "
                "Give --nproc-per-node the number of GPUs."
            )
        start_gpu(device)
    else:
        use_threads()
    mesh = join_mesh(device, split=layout.split)
    if layout.split and device.type == "cuda":
        names = [""] * 2
        dist.all_gather_object(names, torch.cuda.get_device_name(device), group=mesh.tower_group)
        if (difference := different_kinds(names)) is not None:
            raise UsageError(f"{difference}; or give --parallel data")
    result = work(mesh, device, *arguments)
    mesh.close()
    return result


@contextlib.contextmanager
def start_workers(layout: Layout, work: Callable[..., Any], arguments: Sequence[Any]) -> Iterator[list[Worker]]:
    """The running processes; none of them outlives the block."""
    # This process holds the rendezvous store, so that no free port has to be guessed.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    context = multiprocessing.get_context("spawn")
    # Plain pickle: multiprocessing's own would let the processes share the memory of tensors.
    task = pickle.dumps((work, arguments))
    workers: list[Worker] = []
    try:
        for rank in range(layout.num_processes):
            reading, writing = context.Pipe(duplex=False)
            process = context.Process(
                target=run_worker, args=(rank, store.port, layout, task, writing), name=f"rank {rank}"
            )
            with keeping_interrupts():
                process.start()
            writing.close()
            workers.append(Worker(rank, process, reading))
        yield workers
    finally:
        end_all(workers)


@contextlib.contextmanager
def keeping_interrupts() -> Iterator[None]:
    """A process that is started in the block gets no Ctrl-C until it asks for it, see `run_worker`.

    It would come in the middle of the imports, where nothing can answer but a traceback.
    """
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and lets signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_worker(rank: int, port: int, layout: Layout, task: bytes, reports: Connection) -> None:
    """A started process: take the place `rank`, work, report."""
    os.setpgrp()  # a terminal's Ctrl-C reaches the parent alone, which passes it on once
    end_with_parent()
    size = layout.num_processes
    set_launcher(LauncherEnv(rank, size, rank, size), port)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: no need to know its name in the network
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        work, arguments = pickle.loads(task)
        with quiet_errors():
            report = Report(result=take_part(layout, work, arguments))
    except UserError as error:
        report = Report(error=error)
    except KeyboardInterrupt:
        report = Report(error=KeyboardInterrupt())
    except Exception:
        report = Report(failure=traceback.format_exc())
    if report.result is not None and rank != 0:
        report = Report()
    reports.send_bytes(pickle.dumps(report))
    reports.close()
    if report.failed:
        # Not `sys.exit`: leaving torch.distributed in good order would wait for those that are gone.
        os._exit(1)


def end_with_parent() -> None:
    """End this process when its parent has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()


def watch(workers: Sequence[Worker], layout: Layout, stop: StopSignals) -> None:
    """Wait until all have finished well; raise as soon as one has not.

    The first stop signal goes to every process, which save and stop; a second Ctrl-C is a KeyboardInterrupt here.
    """
    passed_on = False
    while not all(worker.report is not None and not worker.report.failed for worker in workers):
        if stop.received is not None and not passed_on:
            passed_on = True
            pass_on(stop.received, workers)
        collect(workers, timeout=None, signaled=stop.reader)
        if any(has_failed(worker) for worker in workers):
            settle(workers)
            raise cause(workers, layout, stop.received)


def pass_on(number: signal.Signals, workers: Sequence[Worker]) -> None:
    """Send a signal to every process that still runs."""
    for worker in workers:
        if is_running(worker) and worker.process.pid is not None:
            os.kill(worker.process.pid, number)


def settle(workers: Sequence[Worker]) -> None:
    """Wait for the reports of further failures."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline and any(worker.report is None for worker in workers if is_running(worker)):
        collect(workers, timeout=deadline - time.monotonic())


def collect(workers: Sequence[Worker], timeout: float | None, signaled: int | None = None) -> None:
    """Wait for reports, ends and signals, and collect the reports.  `signaled`: `StopSignals.reader`."""
    open_reports = [worker for worker in workers if worker.report is None and is_running(worker)]
    if open_reports:
        waits: list[Any] = [worker.reports for worker in open_reports]
        waits += [worker.process.sentinel for worker in open_reports]
        if signaled in wait(waits if signaled is None else [*waits, signaled], timeout):
            assert signaled is not None
            os.read(signaled, 64)
    for worker in workers:
        with contextlib.suppress(EOFError, OSError):
            if worker.report is None and worker.reports.poll():
                worker.report = pickle.loads(worker.reports.recv_bytes())


def is_running(worker: Worker) -> bool:
    return worker.process.exitcode is None


def has_failed(worker: Worker) -> bool:
    """Whether it reported a failure, or is gone without a report."""
    return worker.report.failed if worker.report is not None else not is_running(worker)


def cause(workers: Sequence[Worker], layout: Layout, passed_on: signal.Signals | None) -> UserError | KeyboardInterrupt:
    """The failure from which the others followed: a silent death before all, else the earliest report.

    KeyboardInterrupt with the signal where it killed a process that could not answer it yet.
    """
    for worker in workers:
        if worker.report is None and not is_running(worker):
            if passed_on is not None and -(worker.process.exitcode or 0) == passed_on:
                return KeyboardInterrupt(passed_on)
            return LostProcessError(
                f"{name_of(worker.rank, layout)} {describe_exit(worker.process.exitcode or 0)}; "
                "the other processes were ended."
            )
    reports = [
        (worker.report.moment, worker) for worker in workers if worker.report is not None and worker.report.failed
    ]
    _, worker = min(reports, key=lambda pair: pair[0])
    assert worker.report is not None
    if worker.report.error is not None:
        return worker.report.error
    return UserError(
        f"{name_of(worker.rank, layout)} failed; the other processes were ended.\n{worker.report.failure.rstrip()}"
    )


def name_of(rank: int, layout: Layout) -> str:
    """process 1 of 4 (tower 1 of replica 0)"""
    mesh = Mesh(rank=rank, world_size=layout.num_processes, split=layout.split)
    place = f"tower {mesh.tower} of replica {mesh.replica}" if layout.split else f"replica {mesh.replica}"
    return f"process {rank} of {layout.num_processes} ({place})"


def describe_exit(exit_code: int) -> str:
    """For an error message; negative codes are signals."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code} without a report"
    name = signal.Signals(-exit_code).name
    return f"was killed by {name}" + (" (the system does so when memory runs out)" if name == "SIGKILL" else "")


def end_all(workers: Sequence[Worker]) -> None:
    """Terminate the processes that still run; kill those that have not ended after `STOP_SECONDS`."""
    for worker in workers:
        if worker.report is None or worker.report.failed:
            worker.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if is_running(worker):
            worker.process.kill()
            worker.process.join()
        worker.reports.close()
