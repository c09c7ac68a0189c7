"""What the processes of a run tell each other beside tensors: small picklable things, now and then."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

from alexnet_fast.mesh import Mesh

Thing = TypeVar("Thing")


def from_speaker(mesh: Mesh, own: Thing) -> Thing:
    """What the speaking process has, in all of them; the others wait for it here."""
    told = [own]
    if mesh.world_size > 1:
        dist.broadcast_object_list(told, src=0, group=mesh.host_group)
    return told[0]


def from_all(mesh: Mesh, own: Thing) -> list[Thing]:
    """What each process has, in all of them; all call it together."""
    told = [own] * mesh.world_size
    if mesh.world_size > 1:
        dist.all_gather_object(told, own, group=mesh.host_group)
    return told
