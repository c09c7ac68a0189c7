"""`alexnet-fast demo`: the whole way in a few minutes."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_fast.commands.threads_option import threads_option


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="Folder for all of it.")
@threads_option()
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: the GPU where there is one]")
def command(out: Path, device: str | None) -> None:
    """Draw a small data set, shard it, train the two-tower network on it, show what came out.

    Under five minutes on two CPU cores, seconds on a GPU.
    """
    from alexnet_fast.demo.tour import run_demo, summary

    demo = run_demo(out, click.echo, device=device)
    click.echo(summary(demo, out))
