"""What a person sees: a program in a pseudo-terminal of so many columns, and its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(command: Sequence[str], columns: int, *, lines: int = 40) -> tuple[int, str]:
    """(exit code, everything that was written to a terminal of this width)."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env={**environment, "TERM": "xterm"})
    os.close(other)
    written = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while chunk := os.read(main, 65536):
            written += chunk
    os.close(main)
    return process.wait(), written.decode()


def frames(written: str, columns: int) -> list[str]:
    """Every state of every line: what stood in it before each return of the carriage, and its last.

    AssertionError where a state is wider than the terminal: it would wrap, and the next one be drawn below it.
    """
    found = []
    for line in ESCAPE.sub("", written).split("\n"):
        for state in line.split("\r"):
            if state.strip():
                assert len(state) <= columns, f"{len(state)} columns in a terminal of {columns}: {state!r}"
                found.append(state.rstrip())
    return found
