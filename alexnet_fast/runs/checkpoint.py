"""Checkpoints: one file with everything that a run needs to be resumed, or a network to be used.

Whole tensors, whatever the number of processes; nothing but tensors and plain values, so that reading an untrusted file
runs no code.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.config.recipe import Recipe, recipe_from
from alexnet_fast.network.model import Architecture
from alexnet_fast.runs.checkpoint_validation import check_tensors, check_values
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import check_regular

FORMAT = 3
"""Raised whenever the meaning of a key changes."""
NAME = re.compile(r"step-(\d{8})\.pt")
BEST = "best.pt"
WANTED = "a .pt file, the folder of a run that saved one, or exported .safetensors"
"""What can be asked for its names and errors."""


@dataclass(frozen=True)
class Mean:
    """What is subtracted from pixels 0..255."""

    kind: str
    """"image" or "rgb"."""
    image: torch.Tensor | None
    """(size, size, 3) float32, the mean image; None for "rgb"."""
    rgb: torch.Tensor
    """(3,) float32, the mean color."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    recipe: Recipe
    classes: tuple[tuple[str, str], ...]
    """(name, label for people) by class index."""
    dataset_fingerprint: str
    image_options: ImageOptions
    """How the data set's images were made ready: what the network knows."""
    mean: Mean
    model: dict[str, torch.Tensor]
    """Parameter name -> whole float32 tensor."""
    optimizer: dict[str, torch.Tensor] | None
    """Parameter name -> whole momentum; None in a checkpoint that is only a network."""
    step: int
    """Steps done."""
    steps_per_epoch: int
    loaders: tuple[dict[str, Any], ...]
    """Each process's place in its stream of images; empty at the end of an epoch."""
    scaler: dict[str, float]
    """float16's loss scale."""
    error: float | None
    """Top-1 error (0..1) of these weights, center view; None: not evaluated, or there is no validation split.
    """
    best_error: float | None
    """Lowest top-1 error (0..1) of the run's evaluations so far, this one included."""
    totals: Totals
    """What the run has cost so far."""

    @property
    def epoch(self) -> int:
        """Epochs done whole."""
        return self.step // self.steps_per_epoch

    @property
    def inside_an_epoch(self) -> bool:
        """Whether the epoch after those was begun."""
        return self.step % self.steps_per_epoch != 0

    @property
    def is_best(self) -> bool:
        """Whether no checkpoint of the run so far has a lower error."""
        return self.error is not None and self.error == self.best_error

    def architecture(self) -> Architecture:
        """Of the network that the weights are of."""
        return self.recipe.architecture(len(self.classes))


def mean_of(dataset: Dataset, kind: str) -> Mean:
    """What a recipe with `mean = kind` subtracts from this data set's pixels."""
    image = torch.from_numpy(dataset.mean_image.copy()) if kind == "image" else None
    return Mean(kind, image, torch.from_numpy(dataset.statistics.mean_rgb).float())


def classes_of(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """(name, label) by class index."""
    return tuple((entry.name, entry.label) for entry in dataset.classes)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a whole checkpoint: under `path` there is one, or what was there before.

    Raises OSError (disk full, no permission).
    """
    content = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
    content |= {
        "format": FORMAT,
        "recipe": asdict(checkpoint.recipe),
        "classes": [list(entry) for entry in checkpoint.classes],
        "image_options": asdict(checkpoint.image_options),
        "mean": {field.name: getattr(checkpoint.mean, field.name) for field in fields(Mean)},
        "loaders": list(checkpoint.loaders),
        "totals": asdict(checkpoint.totals),
    }
    save_tensors(path, content)


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values as a whole file, or leave what was there.  Raises OSError that names the file."""
    try:
        with atomic.writing(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch's writer raises an error of its own after the system's
        raise system_error(error, path) from error


def system_error(error: BaseException, path: Path) -> OSError:
    """The OSError that caused an error while `path` was written."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return OSError(cause.errno, cause.strerror, str(path)) if cause is not None else OSError(str(error))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; UserError that names the file where it is none, is cut short or altered."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a checkpoint, a .pt file in a run's checkpoints folder")
    try:
        check_regular(path)
        check_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such checkpoint; give {WANTED}") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it; give yourself the right, or take a copy") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no checkpoint of this program, or it was altered: it holds more than tensors, numbers and "
            "words. Such files are never loaded, since they can run code. Give a .pt file that `train` wrote."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        reason = (words or "").strip().partition("\n")[0] or type(error).__name__
        if path.suffix != ".pt" and isinstance(error, zipfile.BadZipFile):
            raise UsageError(f"{path} is no checkpoint; give {WANTED}") from error
        raise UserError(
            f"{path} is no checkpoint of this program, or it was cut short or altered ({reason}). "
            "Take another of the run's checkpoints folder."
        ) from error
    return checkpoint_from(content, path)


def check_whole(path: Path) -> None:
    """Compare every member of the archive with its checksum; torch.load looks at none of them."""
    with zipfile.ZipFile(path) as archive:
        altered = archive.testzip()
    if altered is not None:
        raise zipfile.BadZipFile(f"{altered} does not match its checksum")


def checkpoint_from(content: Any, path: Path) -> Checkpoint:
    """The checkpoint in what a file held; UserError where that is not of the kind and size that it must be."""
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} holds tensors, but is no checkpoint of this program: `export` and `train` make them.")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise UserError(
            f"{path} has format {str(content['format'])[:20]}; this version of the program reads {FORMAT}. "
            "Use it with the version that wrote it, or train again."
        )
    try:
        check_values(content)
        recipe = recipe_from(content["recipe"], f"{path}")
        architecture = recipe.architecture(len(content["classes"]))
        check_tensors(content["model"], architecture, "the weights")
        if content["optimizer"] is not None:
            check_tensors(content["optimizer"], architecture, "the momentum")
        values = {field.name: content[field.name] for field in fields(Checkpoint)}
        values |= {
            "recipe": recipe,
            "classes": tuple((name, label) for name, label in content["classes"]),
            "mean": Mean(**content["mean"]),
            "image_options": ImageOptions(**content["image_options"]),
            "loaders": tuple(content["loaders"]),
            "totals": Totals(**content["totals"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: a part of the checkpoint is missing or of another kind ({error}). "
            "Take another of the run's checkpoints folder."
        ) from error
    return Checkpoint(**values)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps belongs."""
    return folder / f"step-{step:08d}.pt"


def step_of(file: Path) -> int:
    """Steps done, by the file's name."""
    found = NAME.fullmatch(file.name)
    assert found is not None, file
    return int(found[1])


def saved_checkpoints(folder: Path) -> list[Path]:
    """A run's step-*.pt, the oldest first; without best.pt."""
    found = [file for file in folder.glob("step-*.pt") if NAME.fullmatch(file.name) and file.is_file()]
    return sorted(found, key=lambda file: file.name)


def all_checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint that a run can be resumed from, the oldest first: step-*.pt, and best.pt by the step in it.

    best.pt is omitted where it is one of the others under a second name; one that cannot be read comes first.
    """
    files, best = saved_checkpoints(folder), folder / BEST
    if not best.is_file() or any(is_same_file(best, file) for file in files):
        return files
    steps = {file: step_of(file) for file in files}
    return sorted([best, *files], key=lambda file: steps[file] if file in steps else step_in(best))


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two names are one file's; False where a run that trains on has removed either meanwhile."""
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def step_in(file: Path) -> int:
    """Steps done, by the checkpoint itself, without reading its tensors; -1 where it cannot be read."""
    step = value_in(file, "step")
    return step if isinstance(step, int) else -1


def fingerprint_in(file: Path) -> str:
    """Of the data set, without reading the checkpoint's tensors; "" where it cannot be read."""
    fingerprint = value_in(file, "dataset_fingerprint")
    return fingerprint if isinstance(fingerprint, str) else ""


def value_in(file: Path, key: str) -> Any:
    """What the checkpoint has under a key, without reading its tensors; None where it cannot be read."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)[key]
    except Exception:  # whatever a damaged file makes torch's reader do; who loads it whole hears the reason
        return None


def newest_checkpoint(folder: Path) -> tuple[Path, Checkpoint, list[str]] | None:
    """The newest that can be read, its file first, and a sentence for each newer one that cannot; None: there is none.

    Raises UserError if there are some and none can be read.
    """
    complaints: list[str] = []
    for file in reversed(all_checkpoints(folder)):
        try:
            return file, load_checkpoint(file), complaints
        except UserError as error:  # noqa: PERF203
            complaints.append(str(error))
    if complaints:
        raise UserError(
            f"{folder}: no checkpoint can be read, and none is overwritten; start another run with another --out. "
            + " ".join(complaints)
        )
    return None


def resolve_checkpoint(path: Path) -> Path:
    """A checkpoint's file: the one given, or the newest of a run's folder that was not cut short.

    Where all were, the newest: reading it says what is wrong with it.
    """
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not folder.is_dir():
        return path
    saved = all_checkpoints(folder)
    if not saved:
        raise UsageError(f"{path}: there is no checkpoint in it; give {WANTED}")
    whole = [file for file in saved if zipfile.is_zipfile(file)]  # the archive's end says so; no need to read it all
    return (whole or saved)[-1]
