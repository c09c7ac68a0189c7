"""`alexnet-fast report`: a run as one page."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from alexnet_fast.tools.errors import StoppedError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The page.  [default: report.html in RUN]")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    default=None,
    help="Show the layers with this image, not a held-out one.",
)
@click.option(
    "--images",
    "most",
    type=click.IntRange(8),
    default=10_000,
    show_default=True,
    help="Images of each split to look at.",
)
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: the GPU where there is one]")
@click.option("--quiet", is_flag=True, help="Print the page's name only.")
def command(
    run: Path, data: Path | None, out: Path | None, image: Path | None, most: int, device: str | None, quiet: bool
) -> None:
    """Write everything that RUN has to show as one HTML file that reads nothing else and opens from the disk.

    RUN: a run's folder, also while it runs, or a checkpoint.  DATA: its shards, if they are not where the run found
    them.  The page has curves, results beside the paper's, kernels, answers to held-out images, nearest neighbors, what
    the layers see, confusions, calibration, and the command that repeats the run.
    """
    from alexnet_fast.report.report import write_report

    def silent(text: str) -> None: ...

    say = silent if quiet else partial(click.echo, err=True)
    try:
        file = write_report(run, data, out, image=image, most=most, device=device, say=say)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped; no page was written.") from error
    click.echo(f"Wrote {file}.")
