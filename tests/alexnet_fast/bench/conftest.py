"""What tests of the loader's benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.bench import interleaved, tune
from alexnet_fast.bench import loader as benchmark


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Turns of two batches, and a home for settings that is nobody's."""
    for module in (benchmark, tune):
        monkeypatch.setattr(module, "TURNS", 1)
        monkeypatch.setattr(module, "BATCHES", 2)
    for module in (benchmark, interleaved):
        monkeypatch.setattr(module, "LEAD", 1)
    monkeypatch.setattr(tune, "check_quiet", lambda: None)  # tests run beside other work
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
