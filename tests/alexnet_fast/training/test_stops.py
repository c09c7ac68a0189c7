"""A stop always saves: by each signal, on a terminal with `2>&1 | tee`, with one process and several.

With ALEXNET_FAST_STOPS=all, as `make stops` sets it, each signal comes at twenty moments, to one process and to two.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_fast.distributed.signals import SIGNALS
from tests.forked import ROOT

SETTINGS = ("width_divisor=16", "batch_size=4", "lr_base_batch_size=4", "precision=fp32", "shuffle_buffer=20")
OPTIONS = [*(word for setting in (*SETTINGS, "epochs=4000") for word in ("--set", setting)), "--device", "cpu"]
ONE, TWO = OPTIONS, [*OPTIONS, "--processes", "2"]
MOMENTS = [*(("session", 0.05 * index) for index in range(5)), *(('"val"', 0.07 * index) for index in range(15))]
"""(what metrics.jsonl holds, seconds after that): while the loader starts, and amid steps, evaluations, checkpoints."""
FEW = [
    pytest.param(ONE, [(number, *MOMENTS[4 * index]) for index, number in enumerate(SIGNALS)], id="one process"),
    pytest.param(TWO, [(signal.SIGINT, *MOMENTS[8])], id="two processes"),
]
ALL = [
    pytest.param(options, [(number, *moment) for moment in MOMENTS], id=f"{number.name} {processes}")
    for options, processes in ((ONE, "one process"), (TWO, "two processes"))
    for number in SIGNALS
]


@pytest.mark.timeout(3600)  # a hundred trials of each kind take as long as the machine is busy
@pytest.mark.parametrize(("options", "moments"), ALL if os.environ.get("ALEXNET_FAST_STOPS") == "all" else FEW)
def test_a_stop_loses_nothing(
    options: list[str], moments: list[tuple[int, str, float]], tiny_shards: Path, tmp_path: Path
) -> None:
    trials = [(*moment, options) for moment in moments]
    harness = [sys.executable, "-m", "tests.alexnet_fast.training.stop_harness", str(tiny_shards), str(tmp_path)]
    done = subprocess.run(
        harness, input=json.dumps(trials), capture_output=True, text=True, check=True, timeout=3600, cwd=ROOT
    )
    for (number, awaited, seconds, _), (code, saved, trained, seen) in zip(
        trials, json.loads(done.stdout), strict=True
    ):
        what = f"{signal.Signals(number).name} {seconds} s after {awaited}: {seen}"
        assert code == 128 + number, what
        assert saved == trained, what
        assert trained > 0 or awaited == "session", what
        assert "Traceback" not in seen, what
