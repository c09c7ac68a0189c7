"""The whole way, once: draw a data set, shard it, train on it, test with ten views, show the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_fast.config.recipe import counted_epochs, load_recipe
from alexnet_fast.demo.data import DemoData, draw_dataset
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import command
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output

IMAGES, SHARDS, RUN = "images", "shards", "run"
MARKER = ".alexnet-fast-demo"
"""A file by which the demo knows a folder that it made: in any other, what has these names is somebody else's."""
SHARD_SIZE = 300
"""Small, so that the small data set has several shards."""
BENCH_DATA = DemoData(num_train=100, num_val=2)


@dataclass
class DemoResult:
    """What the demo has to show."""

    dataset: Dataset
    result: dict[str, Any]
    """As in result.json."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds."""


def draw_shards(folder: Path, data: DemoData = BENCH_DATA) -> Path:
    """Draw images below `folder` and shard them there, as the command would; the shards folder."""
    images, shards = folder / IMAGES, folder / SHARDS
    if not images.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draw_dataset(images, data)
    source = find_source(str(images), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(source, ShardOptions(shard_size=SHARD_SIZE))
    shard(plan, open_output(str(shards)), partial(local_pool, num_cores()), strict=False, watch=lambda progress: None)
    return shards


def run_demo(folder: Path, say: Callable[[str], None], *, device: str | None = None) -> DemoResult:
    """Everything, below `folder`; a demo that is there already is trained anew on the images it has."""
    from alexnet_fast.distributed.devices import choose_device
    from alexnet_fast.training.run import train

    choose_device(device)  # a device that is not there is told before anything is drawn
    seconds: dict[str, float] = {}
    try:
        take(folder)
        with timed(seconds, "draw and shard"):
            say("Drawing ten classes of shapes and textures, and sharding them …")
            dataset = Dataset.load(draw_shards(folder, DemoData()))
        remove_run(RunFolder(folder / RUN))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Give --out another folder.") from error
    with timed(seconds, "train and test"):
        say("Training the two-tower network …")
        result = train(dataset, load_recipe("demo"), folder / RUN, device=device)
    return DemoResult(dataset, result, seconds)


def take(folder: Path) -> None:
    """Make the folder and mark it as the demo's; UsageError where it holds something else."""
    marker = folder / MARKER
    if folder.exists() and not (folder.is_dir() and (marker.exists() or not any(folder.iterdir()))):
        raise UsageError(f"{folder}: holds something else than a demo. Give --out another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def remove_run(run: RunFolder) -> None:
    """Remove the last demo's run; UserError while it is still running."""
    if run.path.exists():
        with run.lock():
            shutil.rmtree(run.path)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the block takes."""
    begun = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - begun


def copied(*commands: str) -> list[str]:
    """Each on a line of its own."""
    return [f"  {text.strip('`')}" for text in commands]


def summary(demo: DemoResult, folder: Path) -> str:
    """A short table, and the paths of the images."""
    dataset, result = demo.dataset, demo.result
    center, ten = result["center_view"], result["10_views"]
    counts = dataset.accounting()
    rows = [
        ("images drawn", f"{counts['found']:,}, {counts['written']:,} in shards"),
        ("repaired", f"{len(dataset.repaired):,} (some are drawn odd on purpose: gray, CMYK, turned)"),
        ("skipped", "; ".join(f"{note.file} ({note.reason})" for note in dataset.skipped)),
        ("network", f"net {result['recipe']['network']}, two towers, {result['precision']} on {result['device']}"),
        ("training", f"{counted_epochs(result['epochs'])}, {result['images_per_s']:,.0f} img/s"),
        ("error, center view", f"{center['top1_error']:.1%} of {center['num_samples']} held-out images"),
        ("error, ten views", f"{ten['top1_error']:.1%} (guessing: 90 %)"),
        *((stage, f"{seconds:,.0f} s") for stage, seconds in demo.seconds.items()),
    ]
    figures = RunFolder(folder / RUN).figures
    lines = ["", *(f"{name:20} {value}" for name, value in rows), "", "Look at"]
    lines += [f"  {file}" for file in sorted(figures.glob("*.png"))]
    image = sorted((folder / IMAGES / "val").rglob("*.JPEG"))[2]  # the first of a class are the odd ones
    lines += [
        "and try",
        *copied(command("predict", folder / RUN, image), command("preview", folder / SHARDS)),
        "then, with images of your own, a folder for each class:",
        *copied(
            command("shard", "IMAGES", "--val-fraction", "0.1"),
            command("train", "shards", "--recipe", "demo"),
        ),
    ]
    return "\n".join(lines)
