"""The lines of a check for people, for a report, and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_fast.check.runner import Line
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.tools.atomic import write_text

MARKS = {"pass": "ok", "fail": "FAIL", "skip": "-"}


def show(line: Line) -> str:
    """One line, and one more with the remedy where it failed."""
    text = f"{MARKS[line.outcome]:4}  {line.name:24} {line.shown}  ({line.seconds:.1f} s)"
    return f"{text}\n      {'':24} → {line.remedy}" if line.remedy else text


def table(lines: Sequence[Line], seconds: float) -> str:
    """Markdown: the machine, then a row for each line."""
    machine = "; ".join(f"{name} {value}" for name, value in describe_machine().items())
    rows = [f"| {line.name} | {MARKS[line.outcome]} | {in_cell(line.shown)} |" for line in lines]
    return "\n".join(
        [machine, f"{len(lines)} checks in {seconds:.0f} s", "", "| check | | shown |", "|---|---|---|", *rows]
    )


def in_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def write_report(file: Path, lines: Sequence[dict[str, Any]], seconds: float) -> None:
    """The machine and the lines as JSON."""
    content = {"machine": describe_machine(), "seconds": round(seconds, 1), "lines": list(lines)}
    write_text(file, json.dumps(content, indent=2) + "\n")
