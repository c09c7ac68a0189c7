"""Rendezvous: a key prefix in the agent's store that belongs to one start of the processes.

When a process fails, torchrun restarts all of them with the same store, in which the addresses of the old processes
remain (https://github.com/pytorch/pytorch/issues/135712; in torch 2.13 too).  A process that reads an address before
its new owner has written it connects to a dead process and blocks until the timeout.  The restart count cannot separate
the starts: an agent that replaces a lost one begins at 0.  So the processes of a start first agree on a random key, and
write everything under that prefix.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed's, with their types

from alexnet_fast.distributed.torchrun_env import master_address
from alexnet_fast.tools.errors import UserError

POLL_SECONDS = 0.01


def rendezvous(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """The part of `store` that belongs to this start of the processes; every rank calls it once per start.

    Each rank writes a random token; rank 0 publishes the list of all, until every rank has found its own token in it.
    A list from an earlier start never contains the tokens of this one.  Raises UserError after `timeout`.
    """
    keys = [f"token/{other}" for other in range(world_size)]
    own = uuid.uuid4().hex
    store.set(keys[rank], own)
    acknowledged = False
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        if rank == 0 and store.check(keys):
            store.set("tokens", " ".join(store.get(key).decode() for key in keys))
        tokens = store.get("tokens").decode().split() if store.check(["tokens"]) else []
        if len(tokens) == world_size and tokens[rank] == own:
            num_acknowledged = store.add(f"{tokens[0]}/acknowledged", 0 if acknowledged else 1)
            acknowledged = True
            if num_acknowledged == world_size:
                return PrefixStore(tokens[0], store)
        time.sleep(POLL_SECONDS)
    raise UserError(
        f"process {rank} of {world_size} waited {timeout.total_seconds():.0f} s for the others: not all were started, "
        "or they cannot reach this one. Look at the output of the other machines."
    )


def agents_store(timeout: timedelta) -> Store:
    """The store that torchrun's agent, or `launch`, holds for the processes it started."""
    host, port = master_address()
    return PrefixStore("alexnet_fast", TCPStore(host, port, is_master=False, timeout=timeout))
