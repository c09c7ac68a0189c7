"""What the launched processes do in test_launch.py; started by itself, it launches two of them."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from alexnet_fast.distributed.launcher import launch
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.parallelism import Layout
from alexnet_fast.tools.errors import UsageError

TWO = Layout(torch.device("cpu"), 2, True, "")


def add_ranks(mesh: Mesh, device: torch.device, offset: int) -> tuple[int, int, int, bool]:
    """(rank, processes, sum over all of rank + offset, is split)."""
    total = torch.tensor(mesh.rank + offset)
    if mesh.world_size > 1:
        dist.all_reduce(total)
    return mesh.rank, mesh.world_size, int(total), mesh.split


def group_timeouts(mesh: Mesh, device: torch.device) -> dict[str, tuple[list[int], float]]:
    """Group -> its ranks, and the seconds that its collectives wait for a late one."""
    groups = {"replica": mesh.replica_group, "tower": mesh.tower_group, "world": dist.group.WORLD}
    found = {}
    for name, group in groups.items():
        if group is not None:
            seconds = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
            found[name] = (dist.get_process_group_ranks(group), seconds)
    return found


def fail(mesh: Mesh, device: torch.device, how: str) -> None:
    """Rank 1 fails while rank 0 waits for it."""
    if mesh.rank == 1:
        if how == "user":
            raise UsageError("the batch is made of cheese")
        if how == "bug":
            raise ZeroDivisionError("nobody divides by that")
        os.kill(os.getpid(), signal.SIGKILL)
    mesh.barrier()


def wait_for_signal(mesh: Mesh, device: torch.device) -> None:
    """Say so when every process is here, then do nothing for long."""
    mesh.barrier()
    if mesh.is_main_rank:
        print("ready", flush=True)
    time.sleep(120)


def main() -> None:
    if sys.argv[1] == "torchrun":
        layout = Layout(torch.device("cpu"), 2, True, "", started=True)
        sys.stdout.write(" ".join(map(str, launch(layout, add_ranks, 10))) + "\n")  # whole lines, of two processes
        return
    try:
        launch(TWO, wait_for_signal)
    except KeyboardInterrupt:
        print("interrupted", flush=True)


if __name__ == "__main__":
    main()
