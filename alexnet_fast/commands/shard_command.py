"""`alexnet-fast shard`: any ImageNet on disk → shards."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import AbstractContextManager
from functools import partial
from types import FrameType

import click

from alexnet_fast.config.small_data import demo_command, suits_demo
from alexnet_fast.distributed.machine import DEVICE_NODE
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import MANIFEST, Dataset, ImageOptions
from alexnet_fast.tools.describe import counts_table
from alexnet_fast.tools.errors import StoppedError
from alexnet_fast.tools.messages import command as command_line
from alexnet_fast.tools.messages import counted, to_copy
from alexnet_fast.tools.sharding.finalize import escaped
from alexnet_fast.tools.sharding.image import FILTERS
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import MOST_WORKERS, Pool, local_pool
from alexnet_fast.tools.sharding.progress import ProgressBar
from alexnet_fast.tools.sharding.shard import Outcome, refuse_foreign, shard
from alexnet_fast.tools.sources.find import KINDS, find_source
from alexnet_fast.tools.sources.summary import summary
from alexnet_fast.tools.storage.filesystem import copied_first, is_url
from alexnet_fast.tools.storage.output import open_output

SMALLEST_TRAINED = 224
"""Pixels on each side of what the network sees."""
SHOWN_IMAGES = 10
"""Skipped images named at the end; dataset.json has them all."""


@click.command()
@click.argument("source", type=str)
@click.option("--out", default="shards", show_default=True, help="Folder (or URL) for the shards.")
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=None,
    help="Worker processes.  [default: one a core]",
)
@click.option("--size", type=click.IntRange(8, 4096), default=256, show_default=True, help="Side of the stored square.")
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="JPEG quality.")
@click.option(
    "--filter",
    "filter_name",
    type=click.Choice(list(FILTERS)),
    default="area",
    show_default=True,
    help="Filter for making images smaller.",
)
@click.option(
    "--exif",
    type=click.Choice(["apply", "ignore"]),
    default="apply",
    show_default=True,
    help="Turn images upright, or leave them as older pipelines do.",
)
@click.option("--shard-size", type=click.IntRange(1), default=1000, show_default=True, help="Most images in a shard.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the shuffle.")
@click.option("--val-fraction", type=float, default=None, help="Draw this part of train as a validation split.")
@click.option("--source", "kind", type=click.Choice(KINDS), default=None, help="Overrule the detected format.")
@click.option(
    "--split",
    "splits",
    metavar="NAME=PATH",
    multiple=True,
    help="The folder or tar of a split, below SOURCE; wildcards and several are allowed.",
)
@click.option(
    "--labels", metavar="FILE", multiple=True, help="Table of file names and labels: CSV, JSON lines, or two columns."
)
@click.option(
    "--classes",
    metavar="LIST",
    default=None,
    help="`imagenet`, or a file with a class a line: their indices.",
)
@click.option("--dry-run", is_flag=True, help="Print what was understood of SOURCE, and write nothing.")
@click.option(
    "--keep-damaged", is_flag=True, help="Keep damaged JPEGs, as far as they can be decoded, and list them as repaired."
)
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be used.")
@click.option("--cluster", metavar="ADDRESS", default=None, help="Work on a Dask cluster, such as tcp://host:8786.")
def command(
    source: str,
    out: str,
    workers: int | None,
    size: int,
    quality: int,
    filter_name: str,
    exif: str,
    shard_size: int,
    seed: int,
    val_fraction: float | None,
    kind: str | None,
    splits: tuple[str, ...],
    labels: tuple[str, ...],
    classes: str | None,
    dry_run: bool,
    keep_damaged: bool,
    strict: bool,
    cluster: str | None,
) -> None:
    """Repack the images of SOURCE into 256 px WebDataset shards.

    The format of SOURCE is detected: ImageNet's tars or folders, any class folders or class tars, WebDataset tars,
    parquet files, shards of this program.  What was understood is printed before anything is written.  Stop it whenever
    you like: the same command resumes where it stopped, and repairs what was lost or damaged since.  Exit code 3: done,
    but something was skipped or not used.

    JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF and JPEG 2000 become 8-bit RGB: gray, palettes, CMYK and 16 bits are
    converted, transparency is laid on white, color profiles are dropped, EXIF orientation is applied.  dataset.json
    lists what was converted and what was skipped, with reasons.  A JPEG must be whole to its last byte of image data.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if cluster is not None:
        from alexnet_fast.tools.sharding.dask_pool import check_scheduler

        check_scheduler(cluster)
    if size < SMALLEST_TRAINED:
        click.echo(f"--size {size}: `train` takes images of {SMALLEST_TRAINED} pixels or more.", err=True)
    damaged = "keep" if keep_damaged else "skip"
    image = ImageOptions(size=size, quality=quality, filter=filter_name, exif=exif, damaged=damaged)
    options = ShardOptions(image, shard_size, seed, val_fraction)
    find = partial(
        find_source, source, kind, val_fraction=val_fraction, seed=seed, splits=splits, labels=labels, classes=classes
    )
    pool = partial(_cluster_pool, cluster) if cluster is not None else partial(local_pool, workers or num_cores())
    bar = ProgressBar()
    try:
        output = open_output(out)
        if not dry_run:
            refuse_foreign(output)
        found = find(exclude=str(output), cache=output)
        for line in summary(found):
            click.echo(escaped(line))
        if dry_run:
            click.echo("Nothing was written (--dry-run).")
            sys.exit(3 if found.unused else 0)
        begun = time.monotonic()
        outcome = shard(Plan(found, options), output, pool, strict=strict, watch=bar.show)
    except KeyboardInterrupt as error:
        raise StoppedError(bar.stopped, *error.args) from error
    finally:
        bar.close()
    _report(outcome, time.monotonic() - begun, out)
    if outcome.dataset.skipped or outcome.dataset.unused or found.unused:
        sys.exit(3)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal_number)


def _cluster_pool(address: str) -> AbstractContextManager[Pool]:
    from alexnet_fast.tools.sharding.dask_pool import cluster_pool

    return cluster_pool(address)


def _report(outcome: Outcome, seconds: float, out: str) -> None:
    dataset: Dataset = outcome.dataset
    click.echo(counts_table(dataset))
    if outcome.made_shards:
        click.echo(f"{counted(outcome.made_shards, 'shard')} made in {seconds:,.1f} s.")
    if outcome.repaired_files:
        click.echo(f"Written again: {', '.join(outcome.repaired_files)}.")
    if not outcome.made_shards and not outcome.repaired_files:
        click.echo("All was done already.")
    if dataset.repaired:
        click.echo(f"Converted: {counted(len(dataset.repaired), 'image')}.")
    for note in dataset.skipped[:SHOWN_IMAGES]:
        click.echo(f"  skipped: {escaped(note.file)}: {escaped(note.reason)}")
    if len(dataset.skipped) > SHOWN_IMAGES:
        click.echo(f"  … and {len(dataset.skipped) - SHOWN_IMAGES:,} more")
    place = out.rstrip("/") or out
    if dataset.unused:
        count = sum(entry.count for entry in dataset.unused)
        click.echo(f"Not used: {counted(count, 'image or file', 'images and files')}, named above.")
    if dataset.repaired or dataset.skipped or dataset.unused:
        click.echo(f"{escaped(place)}/{MANIFEST} names all of them, with reasons.")
    click.echo(_next_commands(dataset, place))


def _next_commands(dataset: Dataset, out: str) -> str:
    """What to do with the shards, a command a line; the recipe `demo` where it fits them and there is no GPU."""
    lines = ["Next:", to_copy(command_line("info", out))]
    if dataset.image_options.size < SMALLEST_TRAINED or "train" not in dataset.splits:
        return "\n".join(lines)
    folder = out
    if is_url(out):
        folder, copying = out.rpartition("/")[2], copied_first(out)
        lines.append(to_copy(copying) if copying.startswith("`") else f"To train, {copying}:")
    samples = dataset.splits["train"].samples
    small = suits_demo(samples) and not DEVICE_NODE.exists()
    lines.append(to_copy(demo_command(folder, samples) if small else command_line("train", folder)))
    return "\n".join(lines)
