"""What of a saved run can be resumed: weights on any number of processes, the data's place where it fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_fast.config.recipe import Recipe, key_types, load_recipe, recipe_content
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh, broadcast_object
from alexnet_fast.runs.checkpoint import (
    Checkpoint,
    all_checkpoints,
    classes_of,
    load_checkpoint,
    newest_checkpoint,
    resolve_checkpoint,
)
from alexnet_fast.runs.folder import CHECKPOINTS, RunFolder, finite
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted

DEFINES_NETWORK = ("network", "width_divisor", "norms", "pooling", "activation")
"""Keys of a recipe that cannot change in the middle of a run."""
DEFINES_STREAM = (
    "batch_size", "seed", "shuffle_buffer", "mean", "pca_jitter", "pca_jitter_scale", "pca_jitter_divisor",
    "crop_and_mirror", "exact_2012",
)  # fmt: skip
"""Keys on which it hangs which images come when, and how they look."""
OF_ITS_CLASSES = "the shards it was trained on, or others of the same classes"
ONLY_WORDS = ("name", "description", "source", "expected")


def recipe_of_run(folder: RunFolder) -> Recipe:
    """What a run to be resumed was begun with: its recipe.toml, or where that is gone, its newest checkpoint's.

    Raises UsageError where there is no run, or none that says its recipe.
    """
    folder.check_resumable()
    if not folder.recipe.exists():
        found = newest_checkpoint(folder.checkpoints)
        if found is None:
            raise UsageError(
                f"{folder.path}: has neither recipe.toml nor checkpoints; start another run with another --out."
            )
        return found[1].recipe
    try:
        check_every_key(folder.recipe)
        return load_recipe(str(folder.recipe))
    except UsageError as error:
        raise UsageError(f"{error}. Repair it, or move it away: the newest checkpoint holds the recipe too.") from error


def recipe_to_resume(start: Resume) -> Recipe:
    """The recipe of the run that `start` resumes; of the checkpoint where a new run begins with it."""
    if start.begins_run:
        assert start.checkpoint is not None
        return load_checkpoint(start.checkpoint).recipe
    return recipe_of_run(RunFolder(start.run))


def check_every_key(file: Path) -> None:
    """UsageError where a run's recipe.toml was cut short: its other keys would silently become the defaults."""
    content = recipe_content(file)
    lacking = [key for key in key_types() if key not in content]
    if lacking:
        raise UsageError(f"recipe {file} says nothing of {', '.join(lacking)}; a run's recipe has every key")


def check_before_start(folder: RunFolder, recipe: Recipe) -> None:
    """UsageError where the run in the folder cannot be resumed with this recipe, as far as recipe.toml can tell."""
    folder.check_resumable()
    try:
        before = load_recipe(str(folder.recipe))
    except UsageError:
        return  # the checkpoint will tell
    check_same_network(folder, before, recipe)


def check_same_network(folder: RunFolder, before: Recipe, now: Recipe) -> None:
    """UsageError, with what to give instead, where the run's weights are not those of the network asked for."""
    differences = [key for key in DEFINES_NETWORK if getattr(before, key) != getattr(now, key)]
    if not differences:
        return
    differs = " and ".join(
        f"{key} {getattr(before, key)!r}, the recipe says {getattr(now, key)!r}" for key in differences
    )
    settings = " ".join(f"--set {key}={getattr(before, key)}" for key in differences)
    raise UsageError(
        f"{folder.path} is a run with {differs}: another network cannot take its weights. Leave out --recipe "
        f"and --set to resume by the run's own recipe, or add {settings}, or choose another --out."
    )


@dataclass(frozen=True)
class Resume:
    """What `--resume` means: which run is resumed, and from which checkpoint."""

    run: Path
    checkpoint: Path | None = None
    """None: the newest of the run that can be read."""
    begins_run: bool = False
    """Whether `run` is a new one, which starts with the state of another run's checkpoint."""


def resume_target(given: Path | None, out: Path | None, default: Path) -> Resume:
    """By `--resume [given]` and `--out`; `default`: the run where neither names one.

    `given` is a checkpoint or a run's folder.  Raises UsageError for anything else.
    """
    if given is None:
        return Resume(out if out is not None else default)
    if given.is_dir():
        if out is not None and not out.exists():
            return Resume(out, resolve_checkpoint(given), begins_run=True)
        if out is not None and not out.samefile(given):
            raise UsageError(f"--resume {given} and --out {out} are two runs: leave one of them out.")
        return Resume(given)
    if not given.is_file():
        raise UsageError(f"--resume {given}: there is no such checkpoint and no such run; leave it out for the newest.")
    own = given.absolute().parent.parent if given.absolute().parent.name == CHECKPOINTS else None
    if out is None:
        if own is None:
            raise UsageError(f"--resume {given} lies in no run's folder: give the new run's folder with --out.")
        return Resume(Path(os.path.relpath(own)) if not given.is_absolute() else own, given)
    if own is not None and out.exists() and out.samefile(own):
        return Resume(out, given)
    return Resume(out, given, begins_run=True)


def find_start(
    folder: RunFolder,
    dataset: Dataset,
    recipe: Recipe,
    *,
    mesh: Mesh,
    resume: bool = True,
    checkpoint: Path | None = None,
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to start from, and notes for the user about it; None: the run begins with its first step.

    All ranks call it together and start from the main rank's: another machine's list of a shared folder may be old.
    `resume` False: the run was not asked to resume, and does so only where torchrun started the process again after a
    failure.  `checkpoint`: this one, not the newest.  Raises UsageError where the checkpoint is of another network or
    of other classes.
    """
    start: Checkpoint | None = None
    notes: list[str] = []
    if checkpoint is not None:
        notes = [f"Starting from {checkpoint}."]
    elif mesh.is_main_rank and (resume or all_checkpoints(folder.checkpoints)):
        found = newest_checkpoint(folder.checkpoints)
        if found is None:
            notes = ["No checkpoint was saved yet: training starts from the first step."]
        else:
            checkpoint, start, notes = found
            notes = [f"Resuming from an older checkpoint: {note}" for note in notes]
    checkpoint = broadcast_object(mesh, checkpoint)
    if checkpoint is None:
        return None, notes
    if start is None:
        start = load_checkpoint(checkpoint)
    check_same_classes(start, dataset)
    check_same_network(folder, start.recipe, recipe)
    before, now = asdict(start.recipe), asdict(recipe)
    changed = [key for key in now if before[key] != now[key] and key not in ONLY_WORDS]
    if changed:
        notes.append("The recipe has changed: " + ", ".join(f"{key} {before[key]!r} → {now[key]!r}" for key in changed))
    if start.dataset_fingerprint != dataset.fingerprint:
        notes.append(f"The data set is another than the run's so far (its classes are the same): {dataset.folder}")
    return start, notes


def check_same_classes(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """UsageError unless the data set's classes are the checkpoint's."""
    theirs, ours = [name for name, _ in checkpoint.classes], [name for name, _ in classes_of(dataset)]
    if len(theirs) != len(ours):
        raise UsageError(
            f"{dataset.folder} has {len(ours)} classes, the checkpoint's network knows {len(theirs)}: "
            f"give {OF_ITS_CLASSES}"
        )
    for index, (their_name, our_name) in enumerate(zip(theirs, ours, strict=True)):
        if their_name != our_name:
            raise UsageError(
                f"{dataset.folder}: class {index} is {our_name!r}, the checkpoint's network knows it as "
                f"{their_name!r}: give {OF_ITS_CLASSES}"
            )


def finished_result(folder: RunFolder, schedule: Schedule, step: int) -> dict[str, Any] | None:
    """result.json, where the run that stands after `step` was brought to its end before, with this recipe."""
    result = folder.read_result()
    if result is None or step < schedule.num_steps or result.get("steps") != step:
        return None
    was, now = result.get("recipe"), finite(asdict(schedule.recipe))
    same = isinstance(was, dict) and all(was.get(key) == now[key] for key in now if key not in ONLY_WORDS)
    return result if same else None


def restore_place(
    load: Callable[[dict[str, Any]], None],
    start: Checkpoint,
    schedule: Schedule,
    *,
    rank: int,
    num_ranks: int,
    all_agree: Callable[[bool], bool],
) -> tuple[int, str | None]:
    """(step to train next, notes for the user): the exact place where that can be, else the epoch's start.

    Between two epochs there is no place to lose, however many steps an epoch has now.

    `load`: the loader's load_state_dict.  `all_agree`: whether every process says True.
    """
    step = start.epoch * schedule.steps_per_epoch
    if not start.inside_an_epoch:
        return step, None
    reason = None
    if start.steps_per_epoch != schedule.steps_per_epoch:
        reason = f"an epoch has {schedule.steps_per_epoch:,} steps and had {start.steps_per_epoch:,}"
    elif len(start.loaders) != num_ranks:
        reason = "the processes share the images otherwise"
    else:
        try:
            load(start.loaders[rank])
        except UserError as error:
            reason = str(error).removesuffix(".")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"what the checkpoint says of it is damaged ({error})"
    if all_agree(reason is None):
        return start.step, None
    done = start.step - start.epoch * start.steps_per_epoch
    why = what_was_asked_for(start, schedule.recipe, num_ranks) or reason or "another process cannot find its place"
    return (
        step,
        f"The place among the images cannot be kept: {why}. Resuming from the start of epoch {start.epoch + 1}, "
        f"of which {counted(done, 'step')} had been done.",
    )


def what_was_asked_for(start: Checkpoint, now: Recipe, num_ranks: int) -> str:
    """What of the command changes the place, and how to keep it; "": nothing does."""
    before = start.recipe
    changed = [key for key in DEFINES_STREAM if getattr(before, key) != getattr(now, key)]
    differences = [f"{key} was {getattr(before, key)} and is {getattr(now, key)}" for key in changed]
    remedies = [f"--set {key}={getattr(before, key)}" for key in changed]
    if len(start.loaders) != num_ranks:
        processes = counted(len(start.loaders), "process", "processes")
        differences.append(f"the run had {processes} and has {num_ranks}")
        remedies.append(f"{processes} (--gpus or --processes)")
    if not differences:
        return ""
    return (
        f"{' and '.join(differences)} (to keep it, stop at once with Ctrl-C twice, and resume with "
        f"{' and '.join(remedies)})"
    )
