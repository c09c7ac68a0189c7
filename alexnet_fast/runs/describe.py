"""What a run, a checkpoint or this machine is, for people; a run also while it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.recipe import Recipe, counted_epochs, load_recipe, rounded_epochs
from alexnet_fast.distributed.devices import choose_device
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.distributed.parallelism import choose_layout
from alexnet_fast.distributed.threads import describe_threads, use_threads
from alexnet_fast.runs.checkpoint import Checkpoint, all_checkpoints, fingerprint_in
from alexnet_fast.runs.evaluations import split_of
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import recipe_of_run
from alexnet_fast.runs.resume_command import resume_command, with_command
from alexnet_fast.tools.messages import counted, duration
from alexnet_fast.tools.sharding.finalize import escaped

SHOWN_EPOCHS = 12


def describe_run(folder: RunFolder) -> str:
    """State, speed, errors by epoch, checkpoints.

    Raises UsageError where nothing says the run's recipe: it could not be resumed.
    """
    recipe = recipe_of_run(folder)
    metrics = folder.read_metrics()
    trains = [line for line in metrics if line["kind"] == "train"]
    lines = [f"{folder.path}: network {recipe.network}, {counted_epochs(recipe.epochs)}, batch {recipe.batch_size}", ""]
    lines.append(f"state        {state_of(folder, recipe, metrics)}")
    if trains:
        last = trains[-1]
        lines.append(
            f"last         loss {number(last['loss']):.3f}, error {number(last['error']):.1%}, "
            f"{number(last['images_per_s']):,.0f} img/s, {number(last['data_wait']):.0%} waiting for data"
        )
    events = [line for line in metrics if line["kind"] in ("event", "diverged")]
    if events:
        lines.append(f"last event   epoch {events[-1]['epoch']:.2f}: {escaped(events[-1]['event'])}")
    saved = all_checkpoints(folder.checkpoints)
    lines.append(f"checkpoints  {len(saved)}" + (f", the newest {saved[-1].name}" if saved else ""))
    validations = [line for line in metrics if line["kind"] == "val"]
    if validations:
        lines += ["", *table_of(validations[-SHOWN_EPOCHS:])]
    return "\n".join(lines + how_to_resume(folder, metrics))


def table_of(validations: list[dict[str, Any]]) -> list[str]:
    """A line for each evaluation; without top-5 errors where there are none, the classes being too few.

    With their splits where one is of another than val.
    """
    with_top5 = any(line["top5_error"] is not None for line in validations)
    top5 = f" {'top-5 error':>12}" if with_top5 else ""
    splits = [split_of(line) for line in validations]
    with_splits = set(splits) != {"val"}
    lines = [f"{'epoch':>8} {'views':>6} {'top-1 error':>12}{top5} {'loss':>8}{'  split' * with_splits}"]
    for line, split in zip(validations, splits, strict=True):
        top5 = f" {number(line['top5_error']):12.2%}" if with_top5 else ""
        lines.append(
            f"{rounded_epochs(line['epoch']):>8} {number(line['views']):6g} {number(line['top1_error']):12.2%}{top5} "
            f"{number(line['loss']):8.3f}{f'  {escaped(split)}' * with_splits}"
        )
    return lines


def number(value: float | None) -> float:
    """null in a JSON file stands for what was not finite."""
    return math.nan if value is None else value


def state_of(folder: RunFolder, recipe: Recipe, metrics: list[dict[str, Any]]) -> str:
    """Running, done, diverged or stopped, and where."""
    trains = [line for line in metrics if line["kind"] == "train"]
    epoch = trains[-1]["epoch"] if trains else 0.0
    place = f"epoch {epoch:.2f} of {recipe.epochs:g}"
    if folder.is_running():
        left = ""
        rate = trains[-1]["images_per_s"] if trains else None
        if epoch and rate:
            images = trains[-1]["step"] / epoch * (recipe.epochs - epoch) * recipe.batch_size
            left = f", about {duration(images / rate)} of training left"
        return f"running, {place}{left}"
    if metrics and metrics[-1]["kind"] == "diverged":
        return f"diverged at {place}"
    result = folder.read_result()
    if result is not None:
        return f"done after {counted_epochs(result['epochs'])} ({duration(result['seconds'])} of work)"
    return f"done, but {folder.result} is damaged" if folder.result.exists() else f"stopped at {place}"


def trained_on(folder: RunFolder) -> str:
    """The data set's fingerprint, by the result or by the newest checkpoint of a run that is not done; "": unknown."""
    result = folder.read_result()
    if result is not None and isinstance(result.get("dataset"), dict):
        return str(result["dataset"].get("fingerprint"))
    return next(filter(None, map(fingerprint_in, reversed(all_checkpoints(folder.checkpoints)))), "")


def how_to_resume(folder: RunFolder, metrics: list[dict[str, Any]]) -> list[str]:
    """Lines that end in the command that resumes the run, as its last session was started; none where it cannot be."""
    if folder.is_running() or folder.read_result() is not None or (metrics and metrics[-1]["kind"] == "diverged"):
        return []
    sessions = [line for line in metrics if line["kind"] == "session"]
    data, options = (sessions[-1]["data"], sessions[-1]["options"]) if sessions else ("…", ())
    sentence = "To write it again" if folder.result.exists() else "To resume"
    return ["", with_command(sentence, resume_command(data, folder.path, options))]


def unfinished(path: Path, file: Path, checkpoint: Checkpoint) -> str | None:
    """A sentence where `path` is the folder of a run that is not done, of which `file` is used; None elsewhere."""
    if not path.is_dir() or RunFolder(path).read_result() is not None:
        return None
    return (
        f"{path}: this run is not done; {file.name} is used, from epoch "
        f"{rounded_epochs(checkpoint.step / checkpoint.steps_per_epoch)} of {rounded_epochs(checkpoint.recipe.epochs)}"
    )


def describe_checkpoint(file: Path, checkpoint: Checkpoint) -> str:
    """What is in a checkpoint."""
    numbers = sum(tensor.numel() for tensor in checkpoint.model.values())
    labels = ", ".join(escaped(label) for _, label in checkpoint.classes[:6])
    best = "" if checkpoint.best_error is None else f", best top-1 error {checkpoint.best_error:.2%}"
    return "\n".join(
        [
            f"{file}: network {checkpoint.recipe.network}, {numbers / 1e6:,.2f} million parameters",
            f"trained      {counted(checkpoint.step, 'step')}, "
            f"{counted_epochs(checkpoint.step / checkpoint.steps_per_epoch)} of "
            f"recipe {escaped(checkpoint.recipe.name)}{best}",
            f"classes      {len(checkpoint.classes):,}: {labels}{', …' if len(checkpoint.classes) > 6 else ''}",
            f"mean         {checkpoint.mean.kind}, R G B {' '.join(f'{value:.2f}' for value in checkpoint.mean.rgb)}",
            f"data set     {escaped(checkpoint.dataset_fingerprint[:16])}",
            f"holds        weights{'' if checkpoint.optimizer is None else ' and momentum: training can be resumed'}",
        ]
    )


def describe_here() -> str:
    """This machine, and what `train` would choose on it."""
    recipe = load_recipe("2013")
    lines = [f"{name:20} {value}" for name, value in describe_machine().items()]
    device = choose_device(None)
    layout = choose_layout(recipe.architecture(1000), recipe.batch_size)
    precision = choose_precision(device)
    lines += ["", "train would take", f"  {layout.reason}", f"  {precision.name}: {precision.reason}"]
    if device.type == "cpu":
        use_threads()
        lines.append(f"  {describe_threads()}")
    return "\n".join(lines)
