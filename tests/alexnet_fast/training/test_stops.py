"""A stop always saves: by each signal, on a terminal with `2>&1 | tee`, with one process and several."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("options", "moments"),
    [(ONE, [(number, 0.1 * index) for index, number in enumerate(SIGNALS)]), (TWO, [(signal.SIGINT, 0.2)])],
    ids=["one process", "two processes"],
)
def test_a_stop_loses_nothing(
    options: list[str], moments: list[tuple[int, float]], tiny_shards: Path, tmp_path: Path
) -> None:
    trials = [(number, seconds, options) for number, seconds in moments]
    harness = [sys.executable, "-m", "tests.alexnet_fast.training.stop_harness", str(tiny_shards), str(tmp_path)]
    done = subprocess.run(
        harness, input=json.dumps(trials), capture_output=True, text=True, check=True, timeout=3600, cwd=ROOT
    )
    for (number, seconds, _), (code, saved, trained, seen) in zip(trials, json.loads(done.stdout), strict=True):
        what = f"{signal.Signals(number).name} after {seconds} s: {seen}"
        assert code == 128 + number, what
        assert saved == trained, what
        assert "Traceback" not in seen, what
