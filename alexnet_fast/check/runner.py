"""Runs checks one after another in a process of their own: none stops the others, and one that hangs is cut."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from alexnet_fast.tools.errors import UserError

START_SECONDS = 120.0
"""For a process to start and import torch and DALI, on a busy machine."""


class CheckFailedError(UserError):
    """What was to be shown is not so."""


class SkippedError(UserError):
    """It cannot be shown on this machine, and nothing is wrong with that."""


@dataclass(frozen=True)
class Place:
    """What checks work with."""

    folder: Path
    """Temporary; removed at the end."""
    data: Path | None = None
    """The user's shards."""
    quick: bool = False
    until: float = math.inf
    """Of time.monotonic, after which no measurement is begun."""


@dataclass(frozen=True)
class Check:
    """One thing to show."""

    name: str
    run: Callable[[Place], str]
    """What was shown, with its figure; raises what is wrong.  A function of a module, so that it can be pickled."""
    remedy: str
    """What to do where it fails."""
    seconds: float = 60.0
    """After which it counts as hanging."""
    measures: bool = False
    """Whether it measures speed or memory rather than correctness; it is skipped when no time remains."""


@dataclass(frozen=True)
class Line:
    """What came of a check."""

    name: str
    outcome: str
    """"pass", "fail" or "skip"."""
    shown: str
    """What was shown, or what is wrong."""
    remedy: str
    """Empty unless it failed."""
    seconds: float


def run_checks(checks: Sequence[Check], place: Place) -> Iterator[Line]:
    """A line for each check, in their order, as it comes."""
    left = list(checks)
    while left:
        yield from _run_until_lost(left, place)


def _run_until_lost(left: list[Check], place: Place) -> Iterator[Line]:
    """Lines of one process, for as long as it answers; what was answered is taken out of `left`."""
    context = multiprocessing.get_context("spawn")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(tuple(left), place, writing), daemon=False)
    process.start()
    writing.close()
    starting, begun = True, time.monotonic()
    try:
        while left:
            check = left[0]
            limit = START_SECONDS if starting else check.seconds
            try:
                answered = reading.poll(max(0.0, begun + limit - time.monotonic()))
                answer = reading.recv() if answered else None
            except EOFError:
                process.join()
                left.pop(0)
                yield _lost(check, f"the process died ({manner_of_end(process.exitcode)})", begun)
                return
            if answer is None:
                left.pop(0)
                yield _lost(check, f"no answer within {limit:.0f} s: it hangs, and was cut", begun)
                return
            if isinstance(answer, Line):
                left.pop(0)
                yield answer
            starting, begun = False, time.monotonic()
    finally:
        _end(process.pid)
        process.join()
        reading.close()


def _lost(check: Check, what: str, begun: float) -> Line:
    return Line(check.name, "fail", what, check.remedy, time.monotonic() - begun)


def manner_of_end(exit_code: int | None) -> str:
    """For a report; negative codes are signals."""
    return f"signal {signal.Signals(-exit_code).name}" if exit_code is not None and exit_code < 0 else f"{exit_code}"


def _end(pid: int | None) -> None:
    """End a process and all that it started."""
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # the group exists once the process has made it
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _work(checks: tuple[Check, ...], place: Place, answers: Connection) -> None:
    """In the process: a word when it is ready, then a line for each check."""
    os.setpgrp()
    answers.send("ready")
    for check in checks:
        answers.send(line_of(check, place))
    answers.close()


def line_of(check: Check, place: Place) -> Line:
    """Run it here."""
    begun = time.monotonic()
    if check.measures and begun >= place.until:
        return Line(check.name, "skip", "not measured: the time for all checks is over", "", 0.0)
    try:
        outcome, shown = "pass", check.run(place)
    except SkippedError as error:
        outcome, shown = "skip", str(error)
    except (UserError, AssertionError) as error:
        outcome, shown = "fail", str(error) or type(error).__name__
    except Exception as error:  # whatever a library raises: the others still run
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).partition("\n")[0]
        outcome, shown = "fail", f"{type(error).__name__}: {reason} ({Path(last.filename).name}:{last.lineno})"
    return Line(check.name, outcome, shown, check.remedy if outcome == "fail" else "", time.monotonic() - begun)
