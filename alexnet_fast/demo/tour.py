"""From images to a trained network, once: draw a data set, shard it, train on it, test, show what was learned."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_fast.config.recipe import counted_epochs, load_recipe
from alexnet_fast.demo.data import DemoData, draw_dataset
from alexnet_fast.runs.folder import LOCK, RunFolder
from alexnet_fast.runs.lock import locked
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import command, to_copy
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output

IMAGES, SHARDS, RUN = "images", "shards", "run"
MARKER = ".alexnet-fast-demo"
"""A file that marks a folder as made by the demo: in any other, files of these names are not overwritten."""
SHARD_SIZE = 300
"""Small, so that the small data set has several shards."""
FIGURES = {
    "preview": "preview.png",
    "guesses": "guesses.png",
    "conv1": "conv1.png",
    "report": "report.html",
}
"""What the demo shows, in its folder."""
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

    choose_device(device)  # UsageError before anything is drawn
    seconds: dict[str, float] = {}
    with ExitStack() as held:
        try:
            held.enter_context(taken(folder))
            with timed(seconds, "drawing and sharding"):
                say("1/3  Drawing ten classes of shapes and textures, and sharding them …")
                dataset = Dataset.load(draw_shards(folder, DemoData()))
            remove_run(RunFolder(folder / RUN))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}). Give --out another folder.") from error
        with timed(seconds, "training and testing"):
            say("2/3  Training the two-tower network …")
            result = train(dataset, load_recipe("demo"), folder / RUN, device=device)
        with timed(seconds, "figures and report"):
            say("3/3  Drawing what it has learned …")
            draw(folder, dataset, device)
    return DemoResult(dataset, result, seconds)


def draw(folder: Path, dataset: Dataset, device: str | None) -> None:
    """The figures of `FIGURES`, and the run's report."""
    from alexnet_fast.demo.figures import draw_conv1, draw_guesses
    from alexnet_fast.inference.trained_network import load
    from alexnet_fast.pipelines.preview import draw_preview
    from alexnet_fast.report.report import write_report
    from alexnet_fast.runs.figures import initial_conv1

    network = load(folder / RUN, device=device)
    draw_preview(dataset, folder / FIGURES["preview"])
    draw_guesses(network, folder / IMAGES / "val", folder / FIGURES["guesses"])
    checkpoint = network.checkpoint
    draw_conv1(
        checkpoint.model["conv1.weight"].numpy(),
        initial_conv1(checkpoint.recipe, len(checkpoint.classes)),
        checkpoint.architecture().num_towers,
        folder / FIGURES["conv1"],
    )
    write_report(folder / RUN, folder / SHARDS, folder / FIGURES["report"], device=device, say=lambda text: None)


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Make the folder, mark it as the demo's, and keep a second demo out of it in the block.

    Raises UsageError where it holds something else, InUseError.
    """
    marker = folder / MARKER
    if folder.exists() and not (folder.is_dir() and (marker.exists() or not any(folder.iterdir()))):
        raise UsageError(f"{folder}: holds something else than a demo. Give --out another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    with locked(folder / LOCK):
        yield


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


def summary(demo: DemoResult, folder: Path) -> str:
    """The error, the figures to look at, and a lesson with a command each."""
    dataset, result = demo.dataset, demo.result
    ten, counts, recipe = result["10_views"], dataset.accounting(), result["recipe"]
    seconds = ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in demo.seconds.items())
    skipped = "; ".join(f"{note.file} ({note.reason})" for note in dataset.skipped)
    run, shards, images = folder / RUN, folder / SHARDS, folder / IMAGES
    lines = [
        "",
        f"Top-1 error {ten['top1_error']:.1%} on {ten['num_samples']:,} held-out images, ten views (guessing: 90 %).",
        f"  net {recipe['network']}, two towers, {counted_epochs(result['epochs'])} of "
        f"{dataset.split('train').samples:,} images, {result['images_per_s']:,.0f} img/s",
        f"  {counts['found']:,} images drawn, {len(dataset.repaired):,} converted (gray, CMYK, turned: odd on purpose)",
        f"  skipped: {skipped}",
        f"  {seconds}",
        "",
        "Look at",
        f"  {folder / FIGURES['preview']!s:<22}  the data, and what the network sees of it",
        f"  {folder / FIGURES['guesses']!s:<22}  held-out images and the network's answers",
        f"  {folder / FIGURES['conv1']!s:<22}  what the first layer has learned",
        f"  {folder / FIGURES['report']!s:<22}  everything on one page, for a browser",
        "",
        "Ask it:",
        to_copy(command("predict", run, example(images))),
    ]
    for lesson, commands in lessons(shards, folder):
        lines += ["", lesson, to_copy(*(command(*one) for one in commands))]
    return "\n".join(lines)


def example(images: Path) -> Path:
    """A held-out image that is not drawn odd on purpose."""
    return sorted((images / "val").glob("star/*.JPEG"))[-1]


def lessons(shards: Path, folder: Path) -> list[tuple[str, list[tuple[object, ...]]]]:
    """(a sentence, the commands that show it)."""
    again = ("train", shards, "--recipe", "demo")
    tanh, dropout, towers = (folder / name for name in ("tanh", "no-dropout", "towers"))
    return [
        (
            "At this learning rate tanh learns far less in the same epochs (the paper's first figure gives each a "
            "rate of its own: `experiment relu-vs-tanh`):",
            [(*again, "--set", "activation=tanh", "--out", tanh), ("compare", folder / RUN, tanh)],
        ),
        (
            "Dropout makes short trainings slower and reduces overfitting in long ones; without it, at a quarter of "
            "the learning rate, since it diverges at the demo's:",
            [(*again, "--set", "dropout=0", "--lr", 0.0025, "--out", dropout), ("compare", folder / RUN, dropout)],
        ),
        (
            "Each tower can have a process, or a GPU, of its own, as in 2012, and the result is the same:",
            [(*again, "--device", "cpu", "--processes", 2, "--parallel", "towers", "--out", towers)],
        ),
        (
            "Any folder with a folder of images for each class can be trained on:",
            [
                ("shard", "IMAGES", "--val-fraction", 0.1, "--out", "shards"),
                ("train", "shards", "--recipe", "demo", "--epochs", 12),
            ],
        ),
    ]
