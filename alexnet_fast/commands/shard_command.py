"""`alexnet-fast shard`: any ImageNet on disk → shards."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import FrameType

import click

from alexnet_fast.tools.dataset import MANIFEST, Dataset, ImageOptions
from alexnet_fast.tools.describe import counts_table
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import command as command_line
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.finalize import escaped
from alexnet_fast.tools.sharding.image import FILTERS
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import MOST_WORKERS, Pool, local_pool, num_cores
from alexnet_fast.tools.sharding.progress import ProgressBar
from alexnet_fast.tools.sharding.shard import Outcome, refuse_foreign, shard
from alexnet_fast.tools.sources.find import KINDS, find_source
from alexnet_fast.tools.storage.filesystem import copied_first, is_url
from alexnet_fast.tools.storage.output import open_output

SMALLEST_TRAINED = 224
"""Pixels on each side of what the network sees."""
SHOWN_IMAGES = 10
"""Left-out images named at the end; dataset.json has them all."""


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
@click.option("--source", "kind", type=click.Choice(KINDS), default=None, help="Overrule what was found by looking.")
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
    keep_damaged: bool,
    strict: bool,
    cluster: str | None,
) -> None:
    """Repack the images of SOURCE into 256 px WebDataset shards.

    SOURCE is found out by looking: ImageNet's tars or folders, any class folders or class tars, WebDataset tars.  Stop
    it whenever you like: the same command goes on where it stopped, and mends what was lost or damaged since.  Exit
    code 3: done, but images were skipped.

    JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF and JPEG 2000 become 8-bit RGB: gray, palettes, CMYK and 16 bits are
    converted, transparency is laid on white, color profiles are dropped, EXIF orientation is applied.  What was converted
    and what was skipped is listed in dataset.json, with reasons.  A JPEG must be whole to its last byte of image data.
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
    pool = partial(_cluster_pool, cluster) if cluster is not None else partial(local_pool, workers or num_cores())
    bar = ProgressBar()
    try:
        outcome, seconds = _run(source, kind, out, options, pool, strict, bar)
    except KeyboardInterrupt as error:
        raise UserError(bar.stopped) from error
    finally:
        bar.close()
    _report(outcome, seconds, out)
    if outcome.dataset.skipped:
        sys.exit(3)


def _run(
    source: str,
    kind: str | None,
    out: str,
    options: ShardOptions,
    pool: Callable[[], AbstractContextManager[Pool]],
    strict: bool,
    bar: ProgressBar,
) -> tuple[Outcome, float]:
    output = open_output(out)
    refuse_foreign(output)
    found = find_source(
        source,
        kind,
        val_fraction=options.val_fraction,
        seed=options.seed,
        exclude=str(output),
        cache=output,
    )
    click.echo(f"{escaped(found.description)}: {counted(len(found.table), 'image')}")
    for note in found.notes:
        click.echo(f"  {escaped(note)}")
    begun = time.monotonic()
    outcome = shard(Plan(found, options), output, pool, strict=strict, watch=bar.show)
    return outcome, time.monotonic() - begun


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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
        click.echo(f"Converted or repaired: {counted(len(dataset.repaired), 'image')}.")
    for note in dataset.skipped[:SHOWN_IMAGES]:
        click.echo(f"  skipped: {escaped(note.file)}: {escaped(note.reason)}")
    if len(dataset.skipped) > SHOWN_IMAGES:
        click.echo(f"  … and {len(dataset.skipped) - SHOWN_IMAGES:,} more")
    place = out.rstrip("/") or out
    if dataset.repaired or dataset.skipped:
        click.echo(f"{escaped(place)}/{MANIFEST} names all of them, with reasons.")
    training = f", {_training(place)}" if dataset.image_options.size >= SMALLEST_TRAINED else ""
    click.echo(f"Next: {command_line('info', place)}{training}.")


def _training(out: str) -> str:
    """How to train on the shards."""
    if not is_url(out):
        return command_line("train", out)
    return f"{copied_first(out)}, {command_line('train', out.rpartition('/')[2])}"
