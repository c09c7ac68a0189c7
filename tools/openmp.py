"""How threads of OpenMP wait for one another: torch's on a CPU, which meet a few hundred times in each training step.

GNU's library lets a thread that waits try 300,000 times before it sleeps, a millisecond or more.  Where another program
holds a core, the thread that all wait for cannot run while the others spin; 20,000 times are enough for threads that
run, and cost the others little.
"""

from __future__ import annotations

import os
import sys

SPINS = "20000"
POLICY, COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


def spin_briefly() -> None:
    """Choose how long threads spin, unless the user has chosen; to be called before torch is imported."""
    if POLICY not in os.environ and COUNT not in os.environ and "torch" not in sys.modules:
        os.environ[COUNT] = SPINS


def describe_waiting() -> str:
    """The setting as a shell would give it; the library's own where there is none."""
    found = [f"{name}={os.environ[name]}" for name in (POLICY, COUNT) if name in os.environ]
    return " ".join(found) or "the OpenMP library's default"
