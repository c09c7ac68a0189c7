"""Compiled loops: their machine code is kept, whoever else is starting, and whatever became of the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOP = """
import sys
import numpy as np
from alexnet_fast.tools.compilation import compiled, prepare

@compiled
def double(values, first, last):
    for i in range(first, last):
        values[i] *= 2

for kind in sys.argv[1:]:
    values = np.arange(5).astype(kind)
    prepare(double, (values, 0, 5))
    double(values, 1, 5)
    assert values.tolist() == [0, 2, 4, 6, 8], values
print(sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values()))
"""


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    file = tmp_path / "loop" / "loop.py"
    file.parent.mkdir()
    file.write_text(LOOP)
    return file


def start(loop: Path, cache: Path, *kinds: str, numba_cache: Path | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache)} | ({"NUMBA_CACHE_DIR": str(numba_cache)} if numba_cache else {})
    pipe = subprocess.PIPE
    command = [sys.executable, str(loop), *kinds]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(loop: Path, cache: Path, *kinds: str) -> tuple[str, str]:
    """(loaded and compiled, what was said on stderr)."""
    process = start(loop, cache, *kinds)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.strip(), errors


def test_machine_code_is_kept(loop: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert run(loop, cache, "float32") == ("0 1", "")
    assert run(loop, cache, "float32") == ("1 0", "")
    kept = list((cache / "alexnet-fast" / "compiled").iterdir())
    assert len(kept) == 1
    loop.with_name("other.py").write_text("# what the loop calls may have changed\n")
    assert run(loop, cache, "float32") == ("0 1", "")
    for file in cache.rglob("*.nbc"):  # as a power failure leaves it
        file.write_bytes(file.read_bytes()[:100])
    assert run(loop, cache, "float32")[1] == ""
    assert run(loop, cache, "float32") == ("1 0", "")


def test_processes_that_start_together(loop: Path, tmp_path: Path) -> None:
    """Each with another loop to keep in the same place: none gets another's."""
    kinds = ("float32", "float64", "int32", "int64")
    orders = [kinds[place:] + kinds[:place] for place in range(len(kinds))]
    processes = [start(loop, tmp_path / "cache", *order) for order in orders]
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    assert run(loop, tmp_path / "cache", *kinds) == ("4 0", "")


def test_no_folder_to_keep_it_in(loop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    out, errors = run(loop, tmp_path / "file", "float32")
    assert out == "0 1"
    assert errors.count("\n") == 1 and "compiled at every start" in errors and "Set XDG_CACHE_HOME" in errors


def test_the_variable_that_decides_is_named(loop: Path, tmp_path: Path) -> None:
    """XDG_CACHE_HOME has no effect where NUMBA_CACHE_DIR is set, as in a container."""
    (tmp_path / "file").write_text("no folder")
    process = start(loop, tmp_path / "cache", "float32", numba_cache=tmp_path / "file")
    _, errors = process.communicate()
    assert process.returncode == 0 and "Set NUMBA_CACHE_DIR to a folder" in errors, errors
