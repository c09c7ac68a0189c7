"""`alexnet-fast preview`: a shards folder as an image."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import StoppedError, UsageError


@click.command()
@click.argument("data", type=str, envvar="ALEXNET_FAST_DATA", default="shards")
@click.option("--out", default="preview.png", show_default=True, help="The image to write, a .png.")
def command(data: str, out: str) -> None:
    """Draw what is in the shards folder DATA ($ALEXNET_FAST_DATA, else ./shards) and what the network will see.

    A contact sheet with class names; for a few images the crops, mirrors and colors that the training pipeline
    makes of them; the mean image; the PCA color jitter beside its theory.
    """
    if not out.lower().endswith(".png"):
        raise UsageError(f"--out {out}: preview writes a PNG; give a name that ends in .png.")
    dataset = Dataset.load(data)
    click.echo(f"Drawing what is in {data} …", err=True)  # before what takes seconds
    try:
        from alexnet_fast.pipelines.preview import draw_preview

        draw_preview(dataset, Path(out))
    except KeyboardInterrupt as error:
        raise StoppedError("Stopped; nothing was written.") from error
    click.echo(f"Wrote {out}.")
