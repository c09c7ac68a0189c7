"""The launcher's environment: the only module that reads RANK, WORLD_SIZE, MASTER_* and TORCHELASTIC_*.

torchrun sets these variables for the processes that it starts; so does this program's own launcher (`set_launcher`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from alexnet_fast.tools.errors import UsageError


@dataclass(frozen=True)
class LauncherEnv:
    """The variables that a launcher set for this process."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    """Processes of this run on this machine."""


def launcher_env() -> LauncherEnv | None:
    """What torchrun, or another launcher that sets its variables, has set; None: no launcher started this process.

    Raises UsageError where the variables cannot come from a launcher, such as those forgotten in a shell.
    """
    if not os.environ.keys() >= {"WORLD_SIZE", "RANK", "LOCAL_RANK"}:
        return None
    size, rank, local = os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"]
    here = os.environ.get("LOCAL_WORLD_SIZE", size)
    numbers = all(text.isdecimal() for text in (size, rank, local, here))
    has_master = size == "1" or os.environ.keys() >= {"MASTER_ADDR", "MASTER_PORT"}
    if not numbers or int(rank) >= int(size) or not has_master:
        problem = "no MASTER_ADDR and MASTER_PORT" if numbers and not has_master else "they cannot be right"
        raise UsageError(
            f"the environment has WORLD_SIZE={size} and RANK={rank} as if torchrun had started this process, but "
            f"{problem}: start it with torchrun, or unset WORLD_SIZE, RANK and LOCAL_RANK"
        )
    return LauncherEnv(int(rank), int(size), int(local), max(1, int(here)))


def started_processes() -> int | None:
    """How many processes a launcher started on all machines together; None: no launcher did."""
    env = launcher_env()
    return None if env is None else env.world_size


def local_world_size() -> int:
    """Processes of this run on this machine; 1 where no launcher started it."""
    env = launcher_env()
    return 1 if env is None else env.local_world_size


def is_main_rank() -> bool:
    """Whether this process prints and writes files: rank 0, or the only process there is."""
    env = launcher_env()
    return env is None or env.rank == 0


def is_local_main_rank() -> bool:
    """Whether this process is the first of this run on its machine."""
    env = launcher_env()
    return env is None or env.local_rank == 0


def master_address() -> tuple[str, int]:
    """Host and port of the rendezvous store."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def launcher_holds_store() -> bool:
    """Whether the launcher's own process holds that store; otherwise rank 0 opens it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_restarted() -> bool:
    """Whether torchrun started this process again after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def set_launcher(env: LauncherEnv, port: int) -> None:
    """Set the variables as torchrun would; the store listens at `port` of this machine."""
    os.environ |= {
        "RANK": str(env.rank),
        "LOCAL_RANK": str(env.local_rank),
        "WORLD_SIZE": str(env.world_size),
        "LOCAL_WORLD_SIZE": str(env.local_world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
