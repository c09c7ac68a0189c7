"""`alexnet-fast check`: prove the installation on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.temporary import temporary_folder

MEASURED_UNTIL = 360.0
"""Seconds after which no measurement is begun, so that all take less than eight minutes on a GPU."""


@click.command()
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--quick", is_flag=True, help="Leave out what only measures speed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None, help="Also write the lines there.")
def command(data: Path | None, quick: bool, json_file: Path | None) -> None:
    """Show that this installation works on this machine, line by line; with DATA, a shards folder, also on it.

    Without a GPU in under two minutes, with one in under eight.  Each line says what was shown, the figure, and what to
    do where it failed; a failing line stops no other, and what hangs is cut.  It ends with a table to paste into a
    report.  Exit code 1 where a line failed.
    """
    from alexnet_fast.check.report import show, table, write_report
    from alexnet_fast.check.runner import Line, Place, run_checks
    from alexnet_fast.check.suite import checks_for

    if data is not None and not data.exists():
        raise UsageError(f"{data}: there is no such folder. `alexnet-fast shard SOURCE` makes one.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError(f"--json {json_file}: there is no folder {json_file.absolute().parent}; make it first.")
    begun = time.monotonic()
    lines: list[Line] = []
    with temporary_folder("check") as folder:
        for line in run_checks(checks_for(quick=quick), Place(folder, data, quick, begun + MEASURED_UNTIL)):
            lines.append(line)
            click.echo(show(line))
    seconds = time.monotonic() - begun
    click.echo(f"\n{table(lines, seconds)}")
    if json_file is not None:
        try:
            write_report(json_file, [asdict(line) for line in lines], seconds)
        except OSError as error:
            raise UserError(f"--json {json_file}: cannot be written ({error.strerror}).") from error
        click.echo(f"Written to {json_file}")
    failed = [line.name for line in lines if line.outcome == "fail"]
    if failed:
        raise UserError(f"{len(failed)} of {len(lines)} checks failed: {', '.join(failed)}.")
