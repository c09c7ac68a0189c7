"""Streams as shells give them: a full disk behind standard output, closed ones, a pipe that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from alexnet_fast.tools.streams import Errors

COMMAND = f"{sys.executable} -m alexnet_fast"
QUICK = f"{COMMAND} --help"


def shell(line: str, *, buffered: bool = True) -> tuple[int, str]:
    """(exit code, stderr)."""
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_output_gets_a_sentence(buffered: bool) -> None:
    code, message = shell(f"{QUICK} >/dev/full", buffered=buffered)
    assert code == 1 and message.startswith("alexnet-fast: standard output cannot be written (No space left on device)")
    assert len(message.splitlines()) == 1


def test_a_closed_output_is_refused_before_any_work() -> None:
    code, message = shell(f"{COMMAND} info /nowhere >&-")
    assert (
        code == 1 and message.startswith("alexnet-fast: standard output is closed") and len(message.splitlines()) == 1
    )


def test_a_pipe_that_nobody_reads_is_left_quietly() -> None:
    code, message = shell(f"{QUICK} | true; exit ${{PIPESTATUS[0]}}")
    assert code == 1 and message == ""


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_exit_codes_stay_where_nobody_hears_the_sentence(stderr: str) -> None:
    assert shell(f"{COMMAND} info /nowhere {stderr}")[0] == 2


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    """A library's word on stderr would end up in it."""
    code = "from alexnet_fast.tools.streams import fill_closed; fill_closed(); print(open('/proc/self/stat').fileno())"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" <&- 2>&-'], capture_output=True, text=True, timeout=60
    )
    assert int(done.stdout) > 2


@pytest.mark.parametrize("buffered", [True, False])
def test_the_work_goes_on_where_nobody_hears_of_it(buffered: bool) -> None:
    code = (
        "import sys; from alexnet_fast.tools.streams import explained_output\n"
        "with explained_output():\n"
        "    for _ in range(2): print('trouble', file=sys.stderr, flush=True)\n"
        "    print('work')"
    )
    line = f'exec {sys.executable} -c "{code}" 2>/dev/full | grep work >&2; exit ${{PIPESTATUS[0]}}'
    assert shell(line, buffered=buffered) == (0, "work\n")


def test_a_reader_that_takes_nothing_does_not_hold_the_work_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a terminal that was stopped with Ctrl-S: a write to it would never end."""
    monkeypatch.setattr("alexnet_fast.tools.streams.PATIENCE", 0.01)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as stream, os.fdopen(reading) as reader:
        errors = Errors(stream)
        for number in range(10_000):  # a pipe holds 64 KiB
            errors.write(f"line {number}\n")
        os.set_blocking(reading, False)
        assert reader.read().startswith("line 0\nline 1\n")
        errors.write("it is read again\n")
        assert reader.read() == "it is read again\n"
