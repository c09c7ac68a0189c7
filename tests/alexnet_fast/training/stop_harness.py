"""Trains on a pseudo-terminal with `2>&1 | tee`, and stops it by a signal, at many moments; see `test_stops`.

The program is imported once and forked, since importing takes ten times as long as a trial.  Reads a JSON list of
trials [signal, what to await in metrics.jsonl, seconds after that, options] on standard input, and writes one of what
came of each: [exit code, step of the newest checkpoint, last step of the metrics, what was seen].
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import sys
import time
from pathlib import Path

from alexnet_fast.commands.main import main
from alexnet_fast.runs.checkpoint import all_checkpoints, load_checkpoint
from alexnet_fast.runs.folder import RunFolder
from tests.forked import fork_instead_of_spawning

PATIENCE = 240.0
"""Seconds after which a trial is given up: machines may be busy."""


def train(arguments: list[str], code_file: Path) -> None:
    """In a child: the command with its output in a pipe to tee, both in the terminal's foreground; its exit code."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(reading, 0)
        os.close(writing)
        os.execvp("tee", ["tee", str(code_file.with_suffix(".log"))])
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
    fork_instead_of_spawning()
    code: object = 0
    try:
        main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        code = repr(error)
    code_file.write_text(json.dumps(code))
    os._exit(0)


def trial(shards: str, run: Path, number: int, awaited: str, seconds: float, options: list[str]) -> str:
    """Train until the signal ends it; the last that was seen on the terminal."""
    code_file = run.with_suffix(".code")
    pid, terminal = pty.fork()
    if pid == 0:
        # A terminal's Ctrl-C reaches every process that does not ignore it, whatever started these tests.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for other in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(other, signal.SIG_DFL)
        train(["train", shards, "--out", str(run), *options], code_file)
    os.set_blocking(terminal, False)
    seen = b""

    def read() -> None:
        nonlocal seen
        with contextlib.suppress(OSError):
            seen += os.read(terminal, 1 << 16)

    metrics, deadline = run / "metrics.jsonl", time.monotonic() + PATIENCE
    while not (metrics.exists() and awaited in metrics.read_text()) and time.monotonic() < deadline:
        read()
        time.sleep(0.005)
    time.sleep(seconds)
    if number == signal.SIGINT:
        os.write(terminal, b"\x03")  # to tee too, which dies of it
    elif number == signal.SIGHUP:
        os.close(terminal)
    else:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        tees = [child for child in children if Path(f"/proc/{child}/comm").read_text() == "tee\n"]
        os.kill(int(tees[0]), signal.SIGKILL)
        os.kill(pid, number)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        read()
        time.sleep(0.005)
    return seen.decode()[-2000:]


def result(run: Path, seen: str) -> list[object]:
    """What came of a trial.  Only after the last fork: a child cannot use threads that torch began in its parent."""
    code_file = run.with_suffix(".code")
    saved = all_checkpoints(run / "checkpoints")
    steps = [line["step"] for line in RunFolder(run).read_metrics() if line["kind"] == "train"]
    code = json.loads(code_file.read_text()) if code_file.exists() else None
    return [code, load_checkpoint(saved[-1]).step if saved else 0, steps[-1] if steps else 0, seen]


if __name__ == "__main__":
    import tests.warm  # noqa: F401 (before the forks)

    shards, folder = sys.argv[1:]
    trials = json.load(sys.stdin)
    runs = [Path(folder) / f"run{index}" for index in range(len(trials))]
    screens = [trial(shards, run, *each) for run, each in zip(runs, trials, strict=True)]
    json.dump([result(run, seen) for run, seen in zip(runs, screens, strict=True)], sys.stdout)
