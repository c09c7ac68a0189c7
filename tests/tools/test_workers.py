"""The local pool's processes."""

from __future__ import annotations

import signal
import subprocess
import sys

KILLED = """
import os, signal
from alexnet_fast.tools.workers import ProcessPool

pool = ProcessPool(1)
print(pool.call(abs, -5).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_the_terminal_alone() -> None:
    finished = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert finished.returncode == -signal.SIGKILL
    assert (finished.stdout, finished.stderr) == ("5\n", "")
