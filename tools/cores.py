"""The processor, and how many of its cores this process may use beside its container's limits and its own run."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from alexnet_fast.tools.errors import UsageError

PROCESS = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")

THREADS = "ALEXNET_FAST_THREADS"
"""Environment variable: threads of each process, whatever the machine has; `--threads` sets it."""

_sharing = 1


def share_machine(num_processes: int) -> None:
    """From now on this process is one of `num_processes` of the same run on this machine, which share its cores."""
    global _sharing
    _sharing = num_processes


def num_sharing() -> int:
    """Processes of this run on this machine, this one included."""
    return _sharing


def choose_threads(number: int) -> None:
    """Each process of the run, this one and those that it starts, takes `number` for its cores."""
    os.environ[THREADS] = str(number)


def chosen_threads() -> int | None:
    """What was chosen; None: nothing, and the machine decides.  UsageError where the variable is no number."""
    text = os.environ.get(THREADS, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise UsageError(f"{THREADS} is {text!r}: give the number of threads, 1 or more, or unset it.")
    return int(text) if text else None


def num_cores() -> int:
    """Cores for this process, at least 1: what was chosen, else its part of the machine's usable cores.

    The processes of the run on this machine have equal parts.
    """
    return chosen_threads() or max(1, usable_cores() // _sharing)


def usable_cores(process: Path = PROCESS, cgroups: Path = CGROUPS) -> int:
    """Cores that the affinity mask and the CPU limits of all enclosing control groups (version 1 and 2) allow.

    `process` and `cgroups` stand for /proc/self and /sys/fs/cgroup.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A container's share may be a fraction of a core; a thread more than that keeps it busy, two more only wait.
    return max(1, min([allowed, *(math.ceil(limit) for limit in _cgroup_limits(process, cgroups))]))


def processor_name() -> str:
    """The processor's model as the kernel names it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cgroup_limits(process: Path, cgroups: Path) -> Iterator[float]:
    """Cores that each enclosing control group with a limit allows."""
    try:
        lines = (process / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        names = controllers.split(",")
        if number == "0" and not controllers:
            yield from _limits_along(cgroups, group, _limit_v2)
            yield from _limits_along(cgroups / "unified", group, _limit_v2)
        elif "cpu" in names:
            for mount in dict.fromkeys([controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu"]):
                yield from _limits_along(cgroups / mount, group, _limit_v1)


def _limits_along(mount: Path, group: str, limit_of: Callable[[Path], float | None]) -> Iterator[float]:
    """Of a group and all above it.  In a container the mount's root is the group, and its path does not exist there."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    for length in range(len(parts), -1, -1):
        limit = limit_of(mount.joinpath(*parts[:length]))
        if limit is not None:
            yield limit


def _limit_v2(group: Path) -> float | None:
    """cpu.max: "max 100000", or microseconds of CPU time in each period of so many."""
    quota, period, *_ = [*_text(group / "cpu.max").split(), "", ""]
    return _ratio(quota, period or "100000")


def _limit_v1(group: Path) -> float | None:
    """cpu.cfs_quota_us (-1: none) in each cpu.cfs_period_us."""
    return _ratio(_text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal()) or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _text(file: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
