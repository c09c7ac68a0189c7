"""`alexnet-fast verify`: is every byte of a shards folder still what the manifest says."""

from __future__ import annotations

import sys
import time

import click
from tqdm import tqdm

from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.describe import human_bytes
from alexnet_fast.tools.errors import StoppedError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.process_pool import MOST_WORKERS
from alexnet_fast.tools.sharding.verify import ShardCheck, advice, verify


@click.command()
@click.argument("data", envvar="ALEXNET_FAST_DATA", default="shards")
@click.option("--decode", is_flag=True, help="Decode every image as well.")
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=None,
    help="Worker processes.  [default: one a core]",
)
def command(data: str, decode: bool, workers: int | None) -> None:
    """Check the shards folder or URL DATA ($ALEXNET_FAST_DATA, else ./shards) against its manifest.

    Reads every byte: sizes, hashes, indexes, labels, samples that come twice.  Exit code 3: something does not match.
    """
    dataset = Dataset.read(data)
    total = sum(split.bytes for split in dataset.splits.values())
    num_shards = sum(len(split.shards) for split in dataset.splits.values())
    begun = time.monotonic()
    with tqdm(total=total, unit="B", unit_scale=True, dynamic_ncols=True, disable=None) as bar:

        def watch(check: ShardCheck) -> None:
            bar.update(check.num_bytes)
            for problem in check.problems:
                bar.write(f"{problem.file}: {problem.what}", file=sys.stderr)

        try:
            problems = verify(
                dataset, decode=decode, num_workers=min(workers or num_cores(), max(num_shards, 1)), watch=watch
            )
        except KeyboardInterrupt as error:
            raise StoppedError("Stopped; nothing was changed.") from error
    seconds = time.monotonic() - begun
    how = "every image decoded" if decode else "images not decoded, which --decode does"
    click.echo(f"{counted(num_shards, 'shard')}, {human_bytes(total)}, read in {seconds:.1f} s ({how}).")
    if not problems:
        click.echo("Everything matches the manifest.")
        return
    for problem in problems:
        click.echo(f"  {problem.file}: {problem.what}")
    click.echo(f"{counted(len(problems), 'problem')}. {advice(dataset, problems)}")
    sys.exit(3)
