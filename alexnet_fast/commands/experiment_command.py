"""`alexnet-fast experiment`: the paper's claims, each one command."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_fast.tools.errors import StoppedError


@click.group()
def command() -> None:
    """Repeat what made the paper convincing, with the authors' numbers beside yours."""


@command.command("relu-vs-tanh")
@click.argument("cifar", type=click.Path(path_type=Path), default="cifar-10-python.tar.gz", envvar="ALEXNET_FAST_CIFAR")
@click.option("--out", type=click.Path(path_type=Path), default="experiments/relu-vs-tanh", show_default=True)
@click.option(
    "--start",
    type=click.Choice(["2012", "fan-in"]),
    default="2012",
    show_default=True,
    help="Pixel scale and initialization: those of the 2012 program's CIFAR-10 nets, or what suits tanh better.",
)
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings at the best learning rate.")
@click.option("--epochs", type=int, default=100, show_default=True, help="A training that needs more is given up.")
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: the GPU where there is one]")
@click.option("--quiet", is_flag=True, help="Print the table only.")
def relu_vs_tanh_command(
    cifar: Path, out: Path, start: str, seeds: int, epochs: int, device: str | None, quiet: bool
) -> None:
    """Figure 1: epochs that ReLU and tanh need to 25 % training error on CIFAR-10.

    CIFAR: the published .tar.gz (python or binary), the folder it unpacks to, or train/<class>/ and test/<class>/, as a
    folder or in a tar.  Every epoch is saved in --out: after a stop the same command resumes.
    """
    from alexnet_fast.experiments.relu_vs_tanh import FIGURE, relu_vs_tanh

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    try:
        text = relu_vs_tanh(cifar, out, start=start, num_seeds=seeds, max_epochs=epochs, device=device, say=say)
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; every finished epoch is in {out}: the same command resumes.") from error
    click.echo(text)
    click.echo(f"\nWrote {out / FIGURE} and {out / 'result.json'}.")


@command.command("ablations")
@click.argument("data", type=click.Path(path_type=Path), default="shards", envvar="ALEXNET_FAST_DATA")
@click.option("--epochs", type=float, default=30.0, show_default=True, help="Of every training: the budget.")
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings of each variant.")
@click.option("--only", default="", metavar="NAME,…", help="Some of the variants; the base always is one.")
@click.option("--recipe", default="2013", show_default=True, help="Of the base: its schedule, batch size and so on.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a key of the base; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default="experiments/ablations", show_default=True)
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: all GPUs, else the CPU]")
def ablations_command(
    data: Path,
    epochs: float,
    seeds: int,
    only: str,
    recipe: str,
    settings: tuple[str, ...],
    out: Path,
    device: str | None,
) -> None:
    """Train variants of net 167 under one budget with the same seeds, and show what each change costs.

    Variants: net-145, no-norms, pooling-2-2, one-tower, no-exchange, no-color-jitter, no-dropout, no-mirror-and-crop,
    tanh, inverted-dropout, lambda.  Each is a run below --out; after a stop the same command continues.
    """
    from alexnet_fast.experiments.ablations import FIGURE, ablations, table
    from alexnet_fast.tools.dataset import Dataset

    def say(text: str) -> None:
        click.echo(text, err=True)

    dataset = Dataset.load(data)
    names = [name.strip() for name in only.split(",") if name.strip()]
    changes = [f"epochs={epochs!r}", *settings]
    try:
        outcomes = ablations(
            dataset, out, recipe=recipe, settings=changes, num_seeds=seeds, only=names, device=device, say=say
        )
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped at once; finished runs are in {out}, the same command resumes.") from error
    click.echo(table(outcomes, dataset))
    click.echo(f"\nWrote {out / FIGURE} and {out / 'result.json'}.")
