"""Checks run one after another: a failure, a death and a hang are lines, and stop no other."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.check.machine import CHECKS, LEAST, cache_folders, check_caches, check_versions, parts
from alexnet_fast.check.report import show, table, write_report
from alexnet_fast.check.runner import Check, CheckFailedError, Line, Place, SkippedError, line_of, run_checks
from alexnet_fast.tools.errors import UserError


def fine(place: Place) -> str:
    return f"all is well in {place.folder.name}"


def wrong(place: Place) -> str:
    raise CheckFailedError("two | and two are five")


def broken(place: Place) -> str:
    raise ZeroDivisionError("a library's\nwords")


def impossible(place: Place) -> str:
    raise SkippedError("there is none here")


def dies(place: Place) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return ""


def hangs(place: Place) -> str:
    (place.folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
    return ""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """This module as the checks' process can import it too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("test_runner")


def test_nothing_stops_the_others(work: Any, tmp_path: Path) -> None:
    names = ("fine", "wrong", "broken", "dies", "impossible", "hangs", "fine")
    checks = [Check(name, getattr(work, name), "look there", 3.0) for name in names]
    lines = list(run_checks(checks, Place(tmp_path)))
    assert [line.name for line in lines] == list(names)
    assert [line.outcome for line in lines] == ["pass", "fail", "fail", "fail", "skip", "fail", "pass"]
    shown = [line.shown for line in lines]
    assert shown[0] == shown[-1] == f"all is well in {tmp_path.name}"
    assert shown[1] == "two | and two are five"
    assert shown[2].startswith("ZeroDivisionError: a library's (test_runner.py:")
    assert shown[3] == "the process died (signal SIGSEGV)"
    assert shown[5] == "no answer within 3 s: it hangs, and was cut"
    assert [bool(line.remedy) for line in lines] == [line.outcome == "fail" for line in lines]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_lines_for_people_for_reports_and_for_programs(tmp_path: Path) -> None:
    lines = [Line("disk", "pass", "fast", "", 0.1), Line("loader", "fail", "a | b\nc", "mend it", 2.0)]
    assert show(lines[0]).startswith("ok ") and "→ mend it" in show(lines[1])
    text = table(lines, 2.1)
    assert "| loader | FAIL | a \\| b c |" in text and "2 checks in 2 s" in text and "python" in text
    write_report(tmp_path / "check.json", [vars(line) for line in lines], 2.1)
    content = json.loads((tmp_path / "check.json").read_text())
    assert [line["outcome"] for line in content["lines"]] == ["pass", "fail"] and content["machine"]["cores"]


def test_what_the_machine_must_offer(tmp_path: Path) -> None:
    lines = [line_of(check, Place(tmp_path)) for check in CHECKS]
    assert {line.outcome for line in lines} <= {"pass", "skip"} and all(line.shown for line in lines)
    assert [line.name for line in lines if line.outcome == "skip"] in ([], ["GPU is usable"])


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert parts("2.13.0+cpu") == (2, 13) and parts("1.26rc1") == (1, 26)
    monkeypatch.setattr("alexnet_fast.check.machine.LEAST", {"numpy": (1, 20), "torch": (99, 1), "no-such": (1, 0)})
    with pytest.raises(UserError, match=r"torch 2\.\S+ is older than 99\.1; no-such is not installed, 1\.0 is needed"):
        check_versions(Place(tmp_path))


def test_caches_that_cannot_be_written_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    assert cache_folders()["Triton"] == tmp_path / "file"
    with pytest.raises(UserError, match=r"cannot be written: Triton: .*file"):
        check_caches(Place(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "numba"))
    with pytest.raises(UserError, match=r"cannot be written: compiled loops: .*file/numba .*; Triton: "):
        check_caches(Place(tmp_path))


def test_the_oldest_releases_are_those_that_are_installed() -> None:
    """DALI before 2.4 can hang on a batch of kept images; Triton before torch 2.9's does not compile the norms."""
    project = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    floors = dict(re.findall(r'^    "([\w-]+)>=([\d.]+)"', project, re.MULTILINE))
    assert {name: parts(floors[name]) for name in LEAST} == LEAST
    assert LEAST["torch"] >= (2, 9) and LEAST["nvidia-dali-cuda120"] >= (2, 4)


def test_no_measurement_is_begun_when_time_is_over(tmp_path: Path) -> None:
    """What may show a fault is."""
    over, place = Place(tmp_path, until=time.monotonic()), Place(tmp_path)
    measurement, check = Check("speed", fine, "", measures=True), Check("sound", fine, "")
    assert line_of(measurement, place).outcome == line_of(check, over).outcome == "pass"
    line = line_of(measurement, over)
    assert (line.outcome, line.remedy) == ("skip", "") and "time for all checks is over" in line.shown
