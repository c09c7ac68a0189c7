"""Processes for tests, forked where everything is imported already: importing torch and DALI takes seconds each time.

They are forked by multiprocessing's fork server, which has done nothing but import (`tests.warm`), and get this
process's environment and working directory, as any new process does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
_get_context = multiprocessing.get_context


class ForkedProcess(ForkServerProcess):
    """A process of the fork server, with the environment of the one that starts it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class ForkedContext(ForkServerContext):
    Process = ForkedProcess


CONTEXT = ForkedContext()


@contextmanager
def forked_instead_of_spawned() -> Iterator[None]:
    """Whatever this process would spawn by multiprocessing is forked by the server, while the block lasts."""

    def get_context(method: str | None = None) -> BaseContext:
        return start_server() if method == "spawn" else _get_context(method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", get_context)
        yield


def start_server() -> ForkedContext:
    """The context; its server starts with the first process, and finds the tests on its path."""
    CONTEXT.set_forkserver_preload(["tests.warm", "tests.forked"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        forkserver.ensure_running()
    return CONTEXT


class Command:
    """`alexnet-fast arguments…`, running in a process of its own; its interface is that of subprocess.Popen."""

    def __init__(self, arguments: Sequence[object], folder: Path, before: Callable[[], None] | None = None) -> None:
        """folder: where its output goes.  before: called in the process first; a module's function, or a partial."""
        folder.mkdir(parents=True, exist_ok=True)
        self.arguments = [str(argument) for argument in arguments]
        number = len(list(folder.glob("*.stdout")))
        self.outputs = [folder / f"{number}.{name}" for name in ("stdout", "stderr")]
        for file in self.outputs:
            file.touch()
        self.process = start_server().Process(target=command, args=(self.arguments, self.outputs, before))
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """(stdout, stderr) when it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutExpired(self.arguments, timeout, stderr=self.outputs[1].read_bytes())
        out, err = (file.read_text() for file in self.outputs)
        return out, err

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.exitcode is None:
            self.kill()
            self.process.join()


def run_command(
    arguments: Sequence[object], folder: Path, *, timeout: float = 200, check: bool = False
) -> CompletedProcess[str]:
    """`alexnet-fast arguments…` from beginning to end."""
    with Command(arguments, folder) as started:
        out, err = started.communicate(timeout)
    code = started.returncode
    assert code is not None and not (check and code), err
    return CompletedProcess(started.arguments, code, out, err)


def command(arguments: list[str], outputs: list[Path], before: Callable[[], None] | None) -> None:
    """In the forked process."""
    from alexnet_fast.commands.main import main

    for descriptor, file in zip((1, 2), outputs, strict=True):
        with file.open("ab") as opened:
            os.dup2(opened.fileno(), descriptor)
    # SIGINT may be ignored where the tests run in the background of a shell, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fork_instead_of_spawning()
    sys.argv = ["alexnet-fast", *arguments]
    if before is not None:
        before()
    main(arguments)


def fork_instead_of_spawning() -> None:
    """From now on in this process, which is a forked one: its own are its children, as spawned ones are.

    No thread of torch's may run in it yet.
    """
    multiprocessing.get_context = lambda method=None: _get_context("fork" if method == "spawn" else method)  # type: ignore[assignment]
