"""A machine with other work is noticed, by its kernel's count of processor time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from alexnet_fast.bench import busy
from alexnet_fast.tools.errors import UserError

TICKS = os.sysconf("SC_CLK_TCK")


def stat(file: Path, busy_seconds: float) -> None:
    ticks = int(busy_seconds * TICKS)
    file.write_text(f"cpu  {ticks} 0 0 99999 5 0 0 0 0 0\ncpu0 1 2 3 4\n")


@pytest.mark.parametrize(("others", "expected"), [(0.0, 0.0), (1.0, 2.0), (0.05, 0.1)])
def test_others_time_counts_and_waiting_does_not(others: float, expected: float, tmp_path: Path) -> None:
    file = tmp_path / "stat"
    stat(file, 100.0)
    timer = threading.Timer(0.1, stat, (file, 100.0 + others))
    timer.start()
    found = busy.busy_cores(0.5, file)
    timer.join()
    assert found <= expected + 0.05
    assert found > 0.3 * expected or found == 0  # this process's own time is taken off, and a busy machine takes longer


def test_a_system_that_does_not_say_is_taken_for_quiet(tmp_path: Path) -> None:
    assert busy.busy_cores(0.0, tmp_path / "none") == 0.0
    (tmp_path / "odd").write_text("what\n")
    assert busy.busy_cores(0.0, tmp_path / "odd") == 0.0


def test_tuning_is_refused_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "busy_cores", lambda: 1.3)
    with pytest.raises(UserError, match=r"1\.3 of .* nothing was stored"):
        busy.check_quiet()
    monkeypatch.setattr(busy, "busy_cores", lambda: 0.2)
    busy.check_quiet()
