"""`alexnet-fast compare`: several runs side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

NARROWEST = 60
"""Columns of a terminal that a table is fitted to."""


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write a page too.")
def command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Show how RUNS differ in their recipes and results; with --out also a page with their curves in one figure.

    RUNS are two or more runs' folders; they may still be running.
    """
    from alexnet_fast.report.compare import as_text, read_runs, write_comparison

    found = read_runs(runs)
    click.echo(as_text(found, max(NARROWEST, shutil.get_terminal_size((100, 24)).columns)))
    if out is not None:
        write_comparison(found, out)
        click.echo(f"\nWrote {out}.")
