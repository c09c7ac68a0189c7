"""The local pool's processes."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

KILLED = """
import os, signal
from alexnet_fast.tools.sharding.process_pool import ProcessPool

pool = ProcessPool(1)
print(pool.call(abs, -5).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_the_terminal_alone() -> None:
    finished = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert finished.returncode == -signal.SIGKILL
    assert (finished.stdout, finished.stderr) == ("5\n", "")


@pytest.mark.parametrize(
    ("limit", "most", "reason"),
    [(resource.RLIMIT_NOFILE, 14, "Too many open files"), (resource.RLIMIT_FSIZE, 2000, "File too large")],
)
def test_workers_that_cannot_be_started_are_told(
    limit: int, most: int, reason: str, images: Path, tmp_path: Path
) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "shard", str(images), "--out", str(tmp_path / "shards")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
    )
    assert finished.returncode == 1
    assert f"Worker processes cannot be started ({reason}). Make room" in finished.stderr
    assert "Traceback" not in finished.stderr
