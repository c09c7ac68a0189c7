"""Whether other programs load this machine, which would distort a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path

from alexnet_fast.tools.errors import UserError

STAT = Path("/proc/stat")
SAMPLE = 1.0
"""Seconds that are watched."""
MOST_BUSY = 0.3
"""Cores that other programs may use: the background load of a desktop."""


def busy_cores(seconds: float = SAMPLE, stat: Path = STAT) -> float:
    """Cores of this machine that other programs keep busy, on the average over `seconds`; 0 where it is not known."""
    before, own = busy_seconds(stat), sum(os.times()[:4])
    begun = time.monotonic()
    time.sleep(seconds)
    after = busy_seconds(stat)
    if before is None or after is None:
        return 0.0
    others = after - before - (sum(os.times()[:4]) - own)
    return max(0.0, others / (time.monotonic() - begun))


def busy_seconds(stat: Path) -> float | None:
    """Processor time that all programs have used since the machine started; None where the system does not say."""
    try:
        name, user, nice, system, _, _, irq, softirq, *_ = stat.read_text().splitlines()[0].split()
    except (OSError, ValueError, IndexError):
        return None
    assert name == "cpu"
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def check_quiet() -> None:
    """UserError where other programs are at work: settings that were found beside them would slow every later run."""
    busy = busy_cores()
    if busy > MOST_BUSY:
        raise UserError(
            f"other programs keep {busy:.1f} of this machine's {os.cpu_count()} cores busy: the settings found now "
            "would be stored for all later runs, and be too slow. Run it again when the machine is quiet; nothing was "
            "stored."
        )
