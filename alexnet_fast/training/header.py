"""What `train` prints before the first step: a summary of the run, and a recipe that fits the data better."""

from __future__ import annotations

from pathlib import Path

import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import counted_epochs
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.config.small_data import demo_command, suits_demo, takes_long
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.messages import counted, to_copy


def header(
    dataset: Dataset, schedule: Schedule, *, layout: str, device: torch.device, precision: Precision, run: Path,
    step: int, resume: str,
) -> str:  # fmt: skip
    """Data set, recipe, device and the run's folder, a line each; the command that resumes the run on its own.

    layout: what each process does.  step: already done.  resume: the command.
    """
    recipe = schedule.recipe
    images = [counted(split.samples, f"{name} image") for name, split in dataset.splits.items()]
    at = f", of which {step:,} are done" if step else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    rows = {
        "data set": f"{dataset.folder}: {counted(len(dataset.classes), 'class', 'classes')}, {', '.join(images)}",
        "recipe": f"{recipe.name}: net {recipe.network}, learning rate {recipe.lr_weights[0]:g}",
        "schedule": f"{counted_epochs(recipe.epochs)} × {counted(schedule.steps_per_epoch, 'step')} = "
        f"{counted(schedule.num_steps, 'step')} of batch {recipe.batch_size}{at}",
        "device": f"{layout} ({name})",
        "precision": f"{precision.name}: {precision.reason}",
        "run folder": str(run),
    }
    lines = [f"{name:11}{text}" for name, text in rows.items()]
    return "\n".join([*lines, "to resume after Ctrl-C:", to_copy(resume)])


def advice(dataset: Dataset, schedule: Schedule, device: torch.device) -> list[str]:
    """What to know before waiting for this run: a schedule that does not fit, nothing to evaluate on."""
    recipe = schedule.recipe
    notes: list[str] = []
    samples = dataset.split("train").samples
    badly = suits_demo(samples, epochs=recipe.epochs, schedule_epochs=recipe.schedule_epochs)
    if device.type == "cpu" and badly and recipe.name != "demo":
        epochs = f"{counted_epochs(recipe.epochs)} of {samples:,} images"
        problem = (
            f"on a CPU {epochs} take long"
            if takes_long(samples, recipe.epochs)
            else f"{epochs} are {counted(schedule.num_steps, 'step')} of batch {recipe.batch_size}, few to learn from"
        )
        notes.append(
            f"This schedule is meant for ImageNet on GPUs: {problem}. This one fits better:\n"
            f"{to_copy(demo_command(dataset.folder, samples))}"
        )
    return [*notes, *no_validation(dataset, recipe.val_split)]


def no_validation(dataset: Dataset, val_split: str) -> list[str]:
    """Before training, while the split can still be chosen."""
    if val_split in dataset.splits:
        return []
    others = [name for name in dataset.splits if name != "train"]
    if others:
        remedy = f"To evaluate on the {others[0]} split, start with --val-split {others[0]}."
    else:
        remedy = "`shard --val-fraction 0.1` draws one from the training images."
    return [f"There is no validation split: nothing will be evaluated. {remedy}"]
