"""Standard input, output and error as the shell gave them: closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from alexnet_fast.tools.errors import UserError

PATIENCE = 5.0
"""Seconds that a write to standard error waits for a reader that takes nothing."""


def fill_closed() -> None:
    """Put nothing where standard input, output or error are closed: a file of ours would get the number otherwise.

    Raises UserError where standard output is: the output that was asked for would be lost.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (to the end of the program)
    if sys.stdout is None:
        raise UserError("standard output is closed; give >/dev/null where nothing is to be seen.")


@contextmanager
def explained_output() -> Iterator[None]:
    """In the block standard output that takes no more is a UserError; a pipe that nobody reads stays an OSError.

    Standard error that takes no more stops nothing: the work is worth more than what is said of it.
    """
    before = sys.stdout
    sys.stdout = Output(sys.stdout)
    try:
        with quiet_errors():
            yield
    finally:
        sys.stdout = before


class Output:
    """A stream that raises its trouble each time: others may have caught the first error."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.refused: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self.trouble():
            return self.stream.write(text)

    def flush(self) -> None:
        with self.trouble():
            self.stream.flush()

    @contextmanager
    def trouble(self) -> Iterator[None]:
        try:
            if self.refused is not None:
                raise self.refused
            yield
        except OSError as error:
            if self.refused is None:
                self.refused = error
                drop_what_waits(self.stream)
            if error.errno == errno.EPIPE:
                raise
            raise UserError(
                f"standard output cannot be written ({error.strerror}): a part of the output is lost. "
                "Make room, or send it elsewhere."
            ) from error


class Errors:
    """A stream that keeps its trouble to itself: from then on nothing is heard of it.

    Where its reader takes nothing (a terminal stopped with Ctrl-S, a pager), a write waits for `PATIENCE` once and is
    dropped, and so are those after it until the reader takes again: a signal to stop must not wait for them.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.patience = PATIENCE

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text) if self.is_read() else len(text)
        except OSError:
            drop_what_waits(self.stream)
            return len(text)

    def flush(self) -> None:
        try:
            if self.is_read():
                self.stream.flush()
        except OSError:
            drop_what_waits(self.stream)

    def is_read(self) -> bool:
        """Whether the reader takes something now, or within the patience that is left."""
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError):
            return True  # of no file: nobody can be late
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        ready = bool(poll.poll(self.patience * 1000))
        self.patience = PATIENCE if ready else 0.0
        return ready


@contextmanager
def quiet_errors() -> Iterator[None]:
    """In the block, standard error that takes no more stops nothing: for a process that prints nothing else."""
    before = sys.stderr
    sys.stderr = Errors(sys.stderr)
    try:
        yield
    finally:
        sys.stderr = before


def drop_what_waits(stream: TextIO) -> None:
    """Let what a stream could not write go nowhere: it would fail again at the end of the program."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
