"""Standard input, output and error as the shell gave them: closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from alexnet_fast.tools.errors import UserError


def fill_closed() -> None:
    """Put nothing where standard input, output or error are closed: a file of ours would get the number otherwise.

    Raises UserError where standard output is: what was asked for could not be told.
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
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(sys.stdout), Errors(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Output:
    """A stream that tells its trouble, each time: others may have caught the first complaint."""

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
                f"standard output cannot be written ({error.strerror}): not everything was told. "
                "Make room, or send it elsewhere."
            ) from error


class Errors:
    """A stream that keeps its trouble to itself: from then on nothing is heard of it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            drop_what_waits(self.stream)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            drop_what_waits(self.stream)


def drop_what_waits(stream: TextIO) -> None:
    """Let what a stream could not write go nowhere: it would fail again at the end of the program."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
