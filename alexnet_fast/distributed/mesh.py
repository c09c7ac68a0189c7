"""The device mesh, replica × tower, and this process's coordinates in it, from WORLD_SIZE, RANK and LOCAL_RANK.

rank = replica · towers + tower, so that the two towers of a replica are on one machine, with its fastest interconnect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from alexnet_fast.distributed.rendezvous import agents_store, rendezvous
from alexnet_fast.distributed.torchrun_env import launcher_env, launcher_holds_store
from alexnet_fast.network.exchange import Exchange, LocalExchange, TowerExchange
from alexnet_fast.tools.errors import UsageError

TIMEOUT = timedelta(minutes=5)
"""Of collectives, for a rank that is alive but late; a rank that dies is detected at once by `launch`."""

T = TypeVar("T")


@dataclass(frozen=True)
class Mesh:
    """One process's coordinates and process groups.  `Mesh()` is that of a run with one process."""

    rank: int = 0
    world_size: int = 1
    split: bool = False
    """Whether a replica is two processes, one tower each."""
    replica_group: dist.ProcessGroup | None = None
    """The ranks of this tower, one per replica: gradients are averaged over them."""
    tower_group: dist.ProcessGroup | None = None
    """The ranks of this replica's two towers."""
    host_group: dist.ProcessGroup | None = None
    """All ranks, with the gloo backend: its collectives do not synchronize a GPU.  None: the default group is gloo."""

    @property
    def processes_per_replica(self) -> int:
        return 2 if self.split else 1

    @property
    def num_replicas(self) -> int:
        return self.world_size // self.processes_per_replica

    @property
    def replica(self) -> int:
        return self.rank // self.processes_per_replica

    @property
    def tower(self) -> int:
        """0 or 1; 0 where this process holds both."""
        return self.rank % self.processes_per_replica

    @property
    def is_main_rank(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    @property
    def writes_state(self) -> bool:
        """Whether this rank takes part in gathering whole tensors: those of the first replica do."""
        return self.replica == 0

    @property
    def data_rank(self) -> int:
        """Every rank loads its own part of the images, also where it holds one tower."""
        return self.rank

    @property
    def num_data_ranks(self) -> int:
        return self.world_size

    def share_batch(self, batch_size: int) -> int:
        """Images per rank for a global batch size.  Raises UsageError where it does not divide evenly."""
        if batch_size % self.world_size:
            below = batch_size - batch_size % self.world_size
            sizes = f"{below} or {below + self.world_size}" if below else str(self.world_size)
            raise UsageError(
                f"a batch of {batch_size} images cannot be shared by {self.world_size} processes: give "
                f"{'fewer processes, or ' if not below else ''}--set batch_size={sizes}"
            )
        return batch_size // self.world_size

    def make_exchange(self, num_towers: int = 2) -> Exchange:
        """The exchange to construct the model with."""
        if not self.split:
            return LocalExchange(num_towers)
        if num_towers != 2:
            raise UsageError("a network of one tower cannot be split over two processes: choose parallel data")
        assert self.tower_group is not None
        return TowerExchange(self.tower, self.rank ^ 1, self.tower_group)

    def sum_over_replicas(self, tensor: torch.Tensor) -> torch.Tensor:
        """All-reduce (sum) over the replicas of a tensor that both towers of a replica hold, such as a loss."""
        total = tensor.clone()
        if self.replica_group is not None:
            dist.all_reduce(total, group=self.replica_group)
        return total

    def any_process(self, *flags: bool) -> list[bool]:
        """All-reduce (any) of flags over all ranks, without synchronizing a GPU."""
        if self.world_size == 1:
            return list(flags)
        reduced = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(reduced, op=dist.ReduceOp.MAX, group=self.host_group)
        return [bool(flag) for flag in reduced.tolist()]

    def barrier(self) -> None:
        """Block until all ranks have called it."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Destroy the default process group, if there is one."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join_mesh(device: torch.device, *, split: bool) -> Mesh:
    """Initialize torch.distributed from the environment, which `launch` or torchrun set; a single process has none.

    split: two consecutive ranks are one replica, with one tower each.
    """
    env = launcher_env()
    world_size = 1 if env is None else env.world_size
    if env is None or world_size == 1:
        if split:
            raise UsageError("towers need two processes and this is the only one: use --gpus 2, or --parallel data")
        return Mesh()
    if split and world_size % 2:
        raise UsageError(f"{world_size} processes cannot hold two towers each replica: choose an even number")
    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and not dist.is_nccl_available():
        raise UsageError("this torch was built without NCCL, which several GPUs need: install torch's CUDA build")
    if not dist.is_initialized():
        # The launcher holds the store and may restart the processes; else rank 0 opens a store for one start.
        held = launcher_holds_store()
        store = rendezvous(agents_store(TIMEOUT), env.rank, world_size, TIMEOUT) if held else None
        dist.init_process_group(
            backend,
            store=store,
            rank=env.rank,
            world_size=world_size,
            timeout=TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    towers = 2 if split else 1
    ranks = range(world_size)
    return Mesh(
        rank=dist.get_rank(),
        world_size=world_size,
        split=split,
        replica_group=own_group([ranks[tower::towers] for tower in range(towers)]) if world_size > towers else None,
        tower_group=own_group([ranks[first : first + 2] for first in ranks[::2]]) if split else None,
        host_group=dist.new_group(backend="gloo", timeout=TIMEOUT) if backend != "gloo" else None,
    )


def own_group(parts: Sequence[Sequence[int]]) -> dist.ProcessGroup:
    """This rank's process group out of disjoint `parts` of all ranks; every rank calls it with the same parts.

    With `TIMEOUT`: a new group has torch's default instead, 30 minutes for gloo and 10 for NCCL.
    """
    groups = dist.new_subgroups_by_enumeration([list(part) for part in parts], timeout=TIMEOUT)  # type: ignore[no-untyped-call]
    own: dist.ProcessGroup = groups[0]
    return own


def broadcast_object(mesh: Mesh, own: T) -> T:
    """The main rank's object, on every rank; all call it together."""
    objects = [own]
    if mesh.world_size > 1:
        dist.broadcast_object_list(objects, src=0, group=mesh.host_group)
    return objects[0]


def all_gather_object(mesh: Mesh, own: T) -> list[T]:
    """The objects of all ranks, in rank order, on every rank; all call it together."""
    objects = [own] * mesh.world_size
    if mesh.world_size > 1:
        dist.all_gather_object(objects, own, group=mesh.host_group)
    return objects
