"""`alexnet-fast eval`: errors of a trained network, or of several averaged."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from alexnet_fast.commands.threads_option import threads_option
from alexnet_fast.commands.train_command import DATA_VARIABLE
from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.messages import counted

if TYPE_CHECKING:
    from alexnet_fast.inference.class_map import ClassTally
    from alexnet_fast.inference.evaluation import EvaluationResult


@click.command()
@click.argument("paths", metavar="CHECKPOINT… [DATA]", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--split", default="val", show_default=True, help="Which split.")
@click.option("--views", type=click.Choice(["1", "10"]), default="10", show_default=True, help="Views of each image.")
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@threads_option()
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: the GPU where there is one]")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True)
@click.option(
    "--classes",
    metavar="match|FILE",
    default=None,
    help="Evaluate on a part of the classes: those of the same name, or by a file of lines DATA_CLASS[,NETWORK_CLASS].",
)
@click.option("--per-class", metavar="FILE.csv", type=click.Path(path_type=Path), default=None, help="Errors by class.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    paths: tuple[Path, ...],
    split: str,
    views: str,
    batch_size: int,
    device: str | None,
    precision: str,
    classes: str | None,
    per_class: Path | None,
    as_json: bool,
) -> None:
    """Measure the error of a CHECKPOINT (.pt file, run's folder: its newest, .safetensors); several are averaged.

    DATA is a shards folder with the checkpoint's classes ($ALEXNET_FAST_DATA, else ./shards).
    With --classes it may have others: a subset, as ImageNet-R, or the same ones under other names; then the errors
    are given of guesses among these classes, and of guesses among all.
    Views: 1 is the center; 10 are the paper's (corners and center, each with its mirror), probabilities averaged.
    """
    from alexnet_fast.config.precision import choose_precision
    from alexnet_fast.distributed.devices import use_device
    from alexnet_fast.inference.class_map import ClassTally, read_class_map
    from alexnet_fast.inference.evaluation import evaluate, format_errors, with_progress
    from alexnet_fast.inference.load import load_trained, mean_to_subtract
    from alexnet_fast.pipelines.loader import EvaluationLoader
    from alexnet_fast.runs.checkpoint import resolve_checkpoint
    from alexnet_fast.runs.folder import to_json
    from alexnet_fast.runs.resume import check_same_classes
    from alexnet_fast.tools.dataset import Dataset
    from alexnet_fast.tools.errors import UsageError

    checkpoints, data = checkpoints_and_data(paths)
    place = use_device(device)
    chosen = choose_precision(place, precision)
    for path in checkpoints:
        resolve_checkpoint(path)  # before the data is read
    dataset = Dataset.load(data)
    nets = [load_trained(path, place, chosen) for path in checkpoints]
    names, first = [entry.name for entry in dataset.classes], nets[0].checkpoint
    for net in nets:
        if classes is None:
            check_same_classes(net.checkpoint, dataset)
        elif net.checkpoint.classes != first.classes:
            raise UsageError(f"{net.file} has other classes than {nets[0].file}: evaluate them one by one")
    class_map = read_class_map(classes, names, [name for name, _ in first.classes]) if classes is not None else None
    tally = ClassTally(len(first.classes), class_map.among if class_map is not None else None)
    means = [mean_to_subtract(net.checkpoint.mean) for net in nets]
    for net, mean in zip(nets, means, strict=True):
        if mean.shape != means[0].shape or not bool((mean == means[0]).all()):
            raise UsageError(
                f"{net.file} subtracts another mean than {nets[0].file}: networks of different data sets or "
                "mean settings cannot be averaged here; evaluate them one by one"
            )
    num_views: Literal[1, 10] = 10 if views == "10" else 1
    loader = EvaluationLoader(
        dataset, split=split, batch_size=batch_size, device=place, dtype=chosen.dtype, mean=means[0]
    )
    batches = with_progress(loader, num_views, partial(click.echo, err=True), at_once=True)
    observe = tally.observe if class_map is not None or per_class is not None else None
    if class_map is not None:
        batches = class_map.batches(batches)
    result = evaluate([net.predictor for net in nets], batches, num_views=num_views, observe=observe)
    if result.num_samples < loader.num_samples and not as_json:
        click.echo(f"{counted(loader.num_samples - result.num_samples, 'image')} of other classes skipped.", err=True)
    if per_class is not None:
        tally.write_csv(per_class, first.classes)
    among = tally.result(result.precision) if class_map is not None else None
    if as_json:
        click.echo(to_json({"views": num_views, "split": split, **asdict(result), **among_classes(tally, among)}))
        return
    what = f"{len(nets)} networks averaged" if len(nets) > 1 else str(nets[0].file)
    click.echo(f"{what}, {split} split of {data}, {'ten views' if num_views == 10 else 'center view'}:")
    click.echo(
        f"{format_errors(result.top1_error, result.top5_error)} error, loss {result.loss:.4f}, "
        f"{counted(result.num_samples, 'image')}"
    )
    if among is not None:
        click.echo(f"{format_errors(among.top1_error, among.top5_error)} error with guesses {tally.describe()}")


def among_classes(tally: ClassTally, among: EvaluationResult | None) -> dict[str, Any]:
    """Of the JSON: the errors with guesses among the asked classes only."""
    return {} if among is None else {"among": {"classes": len(tally.among), **asdict(among)}}


def checkpoints_and_data(paths: tuple[Path, ...]) -> tuple[tuple[Path, ...], Path]:
    """The last path is the data if a data set is there; UsageError where nothing is there."""
    from alexnet_fast.tools.errors import UsageError

    for path in paths:
        if not path.exists():
            last = path is paths[-1] and len(paths) > 1
            what = "neither a checkpoint nor a shards folder of this name" if last else "no such checkpoint"
            raise UsageError(f"{path}: there is {what}")
    if len(paths) > 1 and ((paths[-1] / MANIFEST).exists() or paths[-1].name == MANIFEST):
        return paths[:-1], paths[-1]
    return paths, Path(os.environ.get(DATA_VARIABLE) or "shards")
