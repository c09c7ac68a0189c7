"""`alexnet-fast export`: a network for other programs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A name that ends in .safetensors or .onnx."
)
def command(checkpoint: Path, out: Path) -> None:
    """Write the network of CHECKPOINT (.pt file, run's folder: its newest, .safetensors) for other programs.

    .safetensors holds everything to use it again with `eval` and `predict`.  .onnx computes logits from RGB pixels of
    0..255 and subtracts the mean itself; a .json of the same name beside it says how to make an image ready and names
    the classes.  A model card, a .md, is written beside both.  onnxruntime's logits differ from ours in float32 by at
    most 1e-4 of the largest, on one CPU.
    """
    from alexnet_fast.inference.export import export
    from alexnet_fast.inference.load import read_checkpoint

    _, loaded = read_checkpoint(checkpoint)
    for written in export(loaded, out):
        click.echo(f"{written}  {written.stat().st_size / 1e6:,.1f} MB")
