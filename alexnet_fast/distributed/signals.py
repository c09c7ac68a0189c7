"""Ctrl-C, SIGTERM and a lost terminal: the first asks for a good end, a second Ctrl-C is the end."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what clusters announce the end with; what a terminal sends that is gone, as when ssh breaks off."""


class Interruption:
    """`with Interruption() as interruption:` — `interruption.asked` turns True when somebody asks for the end."""

    def __init__(self, hint: str = "") -> None:
        """hint: a line to tell at the first Ctrl-C, on standard error."""
        self.asked = False
        self.hint = f"\n{hint}\n".encode() if hint else b""
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell's background job is meant to ignore Ctrl-C, and one under nohup the end of the terminal.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self.receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked and number == signal.SIGINT and self.hint:
            os.write(2, self.hint)  # no print: the signal may have come in the middle of one
        self.asked = True
