"""Stop signals: the first asks to finish the step, save and stop; a second Ctrl-C stops at once.

Handlers only set a flag: printing happens elsewhere, so that a closed output stream cannot raise in a handler.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from alexnet_fast.distributed.mesh import Mesh

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C; what clusters, containers and service managers announce the end with; what a terminal sends that is gone, as
when ssh breaks off; what Slurm's `--signal` is usually set to.  All mean: save and stop."""
SAME_SECONDS = 0.5
"""A second Ctrl-C within this time is the first one: `timeout -s INT` signals the process and then its group."""


class StopSignals:
    """`with StopSignals() as stop:` — `stop.received` is the first stop signal that came, None before.

    Outside the main thread, which alone can handle signals, it stays None.  A second Ctrl-C (SIGINT after any of the
    signals) raises KeyboardInterrupt in the main thread.
    """

    def __init__(self, hint: str = "") -> None:
        """`hint`: a line to print on standard error at the first signal, at once, whatever the program is doing."""
        self.received: signal.Signals | None = None
        self.reader: int | None = None
        """A file descriptor that becomes readable with each signal, for `select` and the like."""
        self._hint = hint
        self._moment = 0.0
        self._writer: int | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._printer: threading.Thread | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            # A shell's background job is meant to ignore Ctrl-C, and one under nohup the end of the terminal.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        if self._hint:
            self._printer = threading.Thread(target=self._print_hint, args=(self.reader,), daemon=True)
            self._printer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.reader is None or self._writer is None:
            return
        signal.set_wakeup_fd(-1)
        os.close(self._writer)
        if self._printer is not None:
            self._printer.join(timeout=1)  # it may be stuck at a terminal that takes nothing
            if self._printer.is_alive():
                return
        os.close(self.reader)
        self.reader = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._moment = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._moment >= SAME_SECONDS:
            raise KeyboardInterrupt

    def _print_hint(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            if any(number in numbers for number in self._before):
                with contextlib.suppress(OSError, ValueError):  # a closed pipe or stream
                    print(f"\n{self._hint}", file=sys.stderr, flush=True)
                return


class AgreedStop:
    """The stop signal on which all processes of the run agree; each may have got its own, at its own moment."""

    def __init__(self, mesh: Mesh, signals: StopSignals) -> None:
        self.signal: signal.Signals | None = None
        """The same in every process; None: train on."""
        self._mesh, self._signals = mesh, signals

    def agree(self, *flags: bool) -> list[bool]:
        """Each flag: whether any process has it; and `signal` is set if any process got one.

        All processes call it at the same place.
        """
        received = self._signals.received
        answers = self._mesh.any_process(*(received == number for number in SIGNALS), *flags)
        if self.signal is None:
            self.signal = next((number for number, came in zip(SIGNALS, answers, strict=False) if came), None)
        return answers[len(SIGNALS) :]
