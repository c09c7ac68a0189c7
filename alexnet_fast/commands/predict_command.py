"""`alexnet-fast predict`: names for images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click

from alexnet_fast.tools.sharding.finalize import escaped


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--views", type=click.Choice(["1", "10"]), default="10", show_default=True, help="Views of each image.")
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: the GPU where there is one]")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="fp32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    checkpoint: Path, images: tuple[str, ...], views: str, device: str | None, precision: str, as_json: bool
) -> None:
    """Print five names, with probabilities, for each of IMAGES: files, folders, or - for an image on stdin.

    CHECKPOINT is a .pt file, a run's folder (its newest checkpoint), or exported .safetensors.  Exit code 3: some
    images could not be used; 1: none could.
    """
    from alexnet_fast.config.precision import choose_precision
    from alexnet_fast.distributed.devices import use_device
    from alexnet_fast.inference.load import load_trained
    from alexnet_fast.inference.predict import Answer, predict
    from alexnet_fast.runs.describe import unfinished

    place = use_device(device)
    chosen = choose_precision(place, precision)
    trained = load_trained(checkpoint, place, chosen)
    if (note := unfinished(checkpoint, trained.file, trained.checkpoint)) is not None:
        click.echo(note, err=True)
    num_views: Literal[1, 10] = 10 if views == "10" else 1
    good = bad = 0

    def show(answer: Answer) -> None:
        if as_json:
            names = [{"class": name, "label": label, "probability": p} for name, label, p in answer.names]
            click.echo(json.dumps({"image": answer.image, "names": names, "problem": answer.problem or None}))
        elif answer.problem:
            click.echo(f"{escaped(answer.image)}: {escaped(answer.problem)}", err=True)
        else:
            click.echo(escaped(answer.image))
            for _, label, probability in answer.names:
                click.echo(f"  {probability:6.1%}  {escaped(label)}")

    for answer in predict(trained, images, device=place, precision=chosen, num_views=num_views):
        show(answer)
        good, bad = good + (not answer.problem), bad + bool(answer.problem)
    if bad:
        sys.exit(3 if good else 1)
