"""`alexnet-fast features`: what the network makes of every image, for other programs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from alexnet_fast.distributed.torchrun_env import is_main_rank
from alexnet_fast.tools.errors import StoppedError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.finalize import escaped

SHOWN = 10
"""Problems that are listed; the table has all."""


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path), default="shards", envvar="ALEXNET_FAST_DATA")
@click.option("--layer", default="fc7", show_default=True, help="pool1, pool2, conv3, conv4, pool5, fc6, fc7 or fc8.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A name that ends in .npy.")
@click.option("--split", default="train", show_default=True, help="Of a shards folder.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True)
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: all GPUs, else the CPU]")
@click.option("--gpus", type=int, default=None, help="How many GPUs.")
@click.option("--processes", type=int, default=None, help="On the CPU: how many processes.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="fp32", show_default=True)
def command(
    checkpoint: Path,
    data: Path,
    layer: str,
    out: Path,
    split: str,
    dtype: str,
    device: str | None,
    gpus: int | None,
    processes: int | None,
    precision: str,
) -> None:
    """Write the features of every image of DATA at a layer of CHECKPOINT's network as a .npy array.

    DATA: a shards folder, or any folder of images ($ALEXNET_FAST_DATA, else ./shards).  Row i of the array belongs to
    row i of the table FILE.tsv beside it: sample, label, class.  Read it with numpy.load(FILE, mmap_mode="r").  After a
    stop the same command continues.  Exit code 3: some images could not be used, their rows hold NaN.
    """
    from alexnet_fast.inference.features import Request, write_features

    request = Request(checkpoint, data, split, layer, out, dtype, precision)
    main = is_main_rank()  # of torchrun's processes one reports

    def say(text: str) -> None:
        if main:
            click.echo(text, err=True)

    try:
        problems = write_features(request, device=device, gpus=gpus, processes=processes, say=say)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped; finished parts are kept, the same command resumes.") from error
    if not main:
        return
    for row in problems[:SHOWN]:
        click.echo(f"{escaped(row.sample)}: {escaped(row.problem)}", err=True)
    if len(problems) > SHOWN:
        click.echo(f"and {len(problems) - SHOWN:,} more", err=True)
    click.echo(f"Wrote {out} and {out.with_suffix('.tsv')}.")
    if problems:
        click.echo(f"{counted(len(problems), 'image')} could not be used: NaN in the array.", err=True)
        sys.exit(3)
