"""A store for one start of the processes, out of an agent's store that outlives them.

torchrun starts all processes anew when one fails, and hands the new ones the very store in which the old ones left
their addresses (https://github.com/pytorch/pytorch/issues/135712; torch 2.13 still does).  Who reads an address before
its new owner has written it calls a dead process and waits for minutes.  A count of restarts cannot tell the starts
apart: an agent that replaces a lost one counts from nought.  So the processes of a start agree on a word first, which
nobody before them can have said, and write everything under it.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed's, with their types

from alexnet_fast.distributed.torchrun_env import master_address
from alexnet_fast.tools.errors import UserError

POLL_SECONDS = 0.01


def meet(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """The part of `store` that belongs to this start of the processes; every rank calls it, each start anew.

    Each process says a word of its own; rank 0 repeats them all, until each has heard its own among them.  What is
    left of an earlier start never holds the words of this one.  Raises UserError if not all came in time.
    """
    words = [f"word/{other}" for other in range(world_size)]
    own = uuid.uuid4().hex
    store.set(words[rank], own)
    heard = False
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        if rank == 0 and store.check(words):
            store.set("words", " ".join(store.get(word).decode() for word in words))
        said = store.get("words").decode().split() if store.check(["words"]) else []
        if len(said) == world_size and said[rank] == own:
            num_heard = store.add(f"{said[0]}/heard", 0 if heard else 1)
            heard = True
            if num_heard == world_size:
                return PrefixStore(said[0], store)
        time.sleep(POLL_SECONDS)
    raise UserError(
        f"process {rank} of {world_size} waited {timeout.total_seconds():.0f} s for the others: not all were started, "
        "or they cannot reach this one. Look at what the other machines say."
    )


def agents_store(timeout: timedelta) -> Store:
    """The store that torchrun's agent, or `launch`, holds for the processes it started."""
    host, port = master_address()
    return PrefixStore("alexnet_fast", TCPStore(host, port, is_master=False, timeout=timeout))
