"""The sharder's bar as terminals of several widths show it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.terminal import frames, run_in_terminal

CODE = """
import time
from alexnet_fast.tools.sharding.progress import ProgressBar
from alexnet_fast.tools.sharding.shard import Progress
bar = ProgressBar()
for done in range(0, 1_281_168, 98_551):
    bar.show(Progress(1_281_167, 1282, images=done, shards=done // 1000, source_bytes=done * 110_000,
                      repaired=done // 40, skipped=done // 1000))
    time.sleep(0.02)
bar.close()
"""


@pytest.mark.parametrize(
    ("columns", "seen", "unseen"),
    [
        (60, [" left", "%|", "/1,281,167"], [" img/s"]),
        (80, [" left", " skipped"], [" MB/s"]),
        (120, [" left", " skipped", " img/s", " converted", " MB/s"], []),
    ],
)
def test_the_bar_says_what_fits_whole(columns: int, seen: list[str], unseen: list[str]) -> None:
    code, written = run_in_terminal([sys.executable, "-c", CODE], columns)
    states = frames(written, columns)
    assert code == 0
    last = states[-1].replace(" |", "|")
    assert all(text in last for text in seen) and not any(text in last for text in unseen), last
    assert last.startswith("100%|██████"), last
    for state in states:
        assert not state.endswith((",", " 0", "left,")) and "lef" not in state.replace("left", ""), state


def test_without_a_terminal_nothing_is_drawn() -> None:
    finished = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
