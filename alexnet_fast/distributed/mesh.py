"""Who this process is: replica × tower, out of WORLD_SIZE, RANK and LOCAL_RANK.

Rank = replica · towers + tower, so that a replica's two towers are neighbors, on one machine and its fastest link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from alexnet_fast.distributed.rendezvous import agents_store, meet
from alexnet_fast.distributed.torchrun_env import launcher_env, launcher_holds_store
from alexnet_fast.network.exchange import Exchange, LocalExchange, TowerExchange
from alexnet_fast.tools.errors import UsageError

TIMEOUT = timedelta(minutes=5)
"""How long a collective waits for a rank that is alive but late; a rank that dies is noticed at once by `launch`."""

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Mesh:
    """One process's place.  `Mesh()` is the only process there is."""

    rank: int = 0
    world_size: int = 1
    split: bool = False
    """Whether a replica is two processes, one tower each."""
    replica_group: dist.ProcessGroup | None = None
    """The processes with this process's tower, one of each replica: gradients are averaged over them."""
    tower_group: dist.ProcessGroup | None = None
    """The two towers of this replica."""
    host_group: dist.ProcessGroup | None = None
    """All processes, over the host: what is said here waits for no GPU."""

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
        """Whether this process prints and writes files; one of all does."""
        return self.rank == 0

    @property
    def writes_state(self) -> bool:
        """Whether this process must take part in gathering whole tensors: the first replica's do."""
        return self.replica == 0

    @property
    def data_rank(self) -> int:
        """Every process loads its own share of the images, those that hold one tower too."""
        return self.rank

    @property
    def num_data_ranks(self) -> int:
        return self.world_size

    def share_batch(self, batch_size: int) -> int:
        """Images that each process loads, out of the batch of all processes."""
        if batch_size % self.world_size:
            below = batch_size - batch_size % self.world_size
            sizes = f"{below} or {below + self.world_size}" if below else str(self.world_size)
            raise UsageError(
                f"a batch of {batch_size} images cannot be shared by {self.world_size} processes: give "
                f"{'fewer processes, or ' if not below else ''}--set batch_size={sizes}"
            )
        return batch_size // self.world_size

    def make_exchange(self, num_towers: int = 2) -> Exchange:
        """What the model is to be made with."""
        if not self.split:
            return LocalExchange(num_towers)
        if num_towers != 2:
            raise UsageError("a network of one tower cannot be split over two processes: choose parallel data")
        assert self.tower_group is not None
        return TowerExchange(self.tower, self.rank ^ 1, self.tower_group)

    def sum_over_replicas(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a small tensor that the two towers of a replica have alike (loss, counts)."""
        total = tensor.clone()
        if self.replica_group is not None:
            dist.all_reduce(total, group=self.replica_group)
        return total

    def any_process(self, *flags: bool) -> list[bool]:
        """Each flag: whether any process has it; the same answer everywhere.  No GPU is waited for."""
        if self.world_size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.host_group)
        return [bool(vote) for vote in votes.tolist()]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the world; nothing in the only process there is."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join_mesh(device: torch.device, *, split: bool) -> Mesh:
    """Take the place that the environment gives (`launch` or torchrun set it); one process needs no environment.

    `split`: two neighboring processes make one replica, one tower each.
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
        # Who started the processes holds the store, and may start them again; else rank 0 opens one of its own.
        held = launcher_holds_store()
        store = meet(agents_store(TIMEOUT), env.rank, world_size, TIMEOUT) if held else None
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
    """The group of this process, out of disjoint parts of all ranks; every process calls it with the same parts.

    With the timeout of the whole world: torch gives a new group its own default, 30 minutes for gloo and 10 for NCCL.
    """
    groups = dist.new_subgroups_by_enumeration([list(part) for part in parts], timeout=TIMEOUT)  # type: ignore[no-untyped-call]
    own: dist.ProcessGroup = groups[0]
    return own


def broadcast_object(mesh: Mesh, own: Thing) -> Thing:
    """What the main rank has, in all of them; the others wait for it here."""
    told = [own]
    if mesh.world_size > 1:
        dist.broadcast_object_list(told, src=0, group=mesh.host_group)
    return told[0]


def all_gather_object(mesh: Mesh, own: Thing) -> list[Thing]:
    """What each process has, in all of them; all call it together."""
    told = [own] * mesh.world_size
    if mesh.world_size > 1:
        dist.all_gather_object(told, own, group=mesh.host_group)
    return told
