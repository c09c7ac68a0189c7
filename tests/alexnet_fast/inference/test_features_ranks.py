"""`features` by several ranks, as torchrun starts them: the bytes of one process, also after a kill in the middle."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.forked import Command
from tests.pausing import pause, small_parts

SECONDS = 200.0


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun sets it: sums over more threads are rounded in another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def arguments(run: Path, shards: Path, out: Path) -> list[object]:
    """59 images in three parts: rank 0 of two has the first and the last."""
    return ["features", run, shards, "--out", out, "--dtype", "float32", "--device", "cpu"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def ranks(words: list[object], folder: Path, befores: list[Callable[[], None]]) -> Iterator[list[Command]]:
    """One process for each of `befores`, with the variables that torchrun sets."""
    size, port = str(len(befores)), str(free_port())
    with ExitStack() as stack:
        started = []
        for rank, before in enumerate(befores):
            with pytest.MonkeyPatch.context() as patch:
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
                for name, value in (place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}).items():
                    patch.setenv(name, value)
                started.append(stack.enter_context(Command(words, folder, before)))
        yield started


def one_process(words: list[object], folder: Path) -> str:
    with Command(words, folder, small_parts) as process:
        out, err = process.communicate(SECONDS)
    assert process.returncode == 0, err
    return out


def content(out: Path) -> tuple[bytes, str]:
    assert not out.with_name(f".{out.name}.parts").exists() and not out.with_name(f".{out.name}.partial").exists()
    return out.read_bytes(), out.with_suffix(".tsv").read_text()


@pytest.fixture
def expected(small_run: Path, tiny_shards: Path, tmp_path: Path) -> tuple[bytes, str]:
    """Of one process that nothing stopped."""
    out = tmp_path / "whole.npy"
    assert one_process(arguments(small_run, tiny_shards, out), tmp_path / "screen").count("Wrote") == 1
    return content(out)


def test_ranks_write_the_bytes_of_one_process_after_a_kill_too(
    small_run: Path, tiny_shards: Path, tmp_path: Path, expected: tuple[bytes, str]
) -> None:
    out, marks = tmp_path / "ranks.npy", [tmp_path / f"rank-{rank}" for rank in range(2)]
    words = arguments(small_run, tiny_shards, out)
    pauses = [partial(pause, "alexnet_fast.inference.features", "Target.write", 1, mark) for mark in marks]
    deadline = time.monotonic() + SECONDS
    with ranks(words, tmp_path / "killed", list(pauses)) as started:
        while not all(mark.exists() for mark in marks):
            screens = [process.outputs[1].read_text() for process in started]
            assert all(process.poll() is None for process in started) and time.monotonic() < deadline, screens
            time.sleep(0.01)
        for process in started:
            process.kill()
    assert not out.exists()
    parts = tmp_path / f".{out.name}.parts"
    assert sorted(file.name for file in parts.glob("0*")) == ["000000.json", "000001.json"]

    with ranks(words, tmp_path / "three", [small_parts] * 3) as started:  # another number of ranks
        shown = [process.communicate(SECONDS) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], shown
    assert content(out) == expected
    assert [printed.count("Wrote") for printed, _ in shown] == [1, 0, 0]
    assert [printed.count("3 CPU processes") for _, printed in shown] == [1, 0, 0]
