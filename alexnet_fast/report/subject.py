"""What a report is about: a run's folder or a checkpoint from elsewhere, with or without its data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.recipe import Recipe
from alexnet_fast.inference.load import Trained, load_trained
from alexnet_fast.runs.checkpoint import all_checkpoints
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import check_same_classes, recipe_of_run
from alexnet_fast.tools.dataset import MANIFEST, Dataset
from alexnet_fast.tools.errors import UsageError, UserError


@dataclass(frozen=True)
class Subject:
    """Everything that is known before anything is computed."""

    path: Path
    """As it was given."""
    folder: RunFolder | None
    """None: a checkpoint alone."""
    recipe: Recipe
    trained: Trained | None
    """None: the run has saved nothing yet."""
    dataset: Dataset | None
    without_data: str
    """Why there is no data set; "": there is one."""
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def split(self) -> str:
        """Of the held-out images: the one that the run was evaluated on after each epoch."""
        return self.recipe.val_split

    @property
    def session(self) -> dict[str, Any] | None:
        """How `train` was called last."""
        sessions = [line for line in self.metrics if line["kind"] == "session"]
        return sessions[-1] if sessions else None

    @property
    def is_running(self) -> bool:
        return self.folder is not None and self.folder.is_running()


def find_subject(path: Path, data: Path | None, device: torch.device) -> Subject:
    """`path`: a run's folder, or a checkpoint; `data`: its shards, None: where the run says that they are.

    Raises UsageError where there is neither run nor checkpoint, or where `data` has other classes.
    """
    folder = RunFolder(path) if path.is_dir() and RunFolder(path).holds_a_run() else None
    if folder is None and path.is_dir():
        raise UsageError(f"{path}: there is no run in it. Give a run's folder, such as runs/2013, or a checkpoint.")
    if folder is None and not path.exists():
        raise UsageError(f"{path}: there is no such run or checkpoint. Runs are folders such as runs/2013.")
    trained = None
    if folder is None or all_checkpoints(folder.checkpoints):
        trained = load_trained(path, device, choose_precision(device))
    metrics = [] if folder is None else folder.read_metrics()
    dataset, why = find_dataset(data, metrics, trained)
    if folder is not None:
        recipe = recipe_of_run(folder)
    else:
        assert trained is not None
        recipe = trained.checkpoint.recipe
    result = None if folder is None else folder.read_result()
    return Subject(path, folder, recipe, trained, dataset, why, metrics, result)


def find_dataset(
    data: Path | None, metrics: list[dict[str, Any]], trained: Trained | None
) -> tuple[Dataset | None, str]:
    """(the data set, why there is none).  A data set that was asked for must be there and fit."""
    if data is not None:
        dataset = Dataset.load(data)
        if trained is not None:
            check_same_classes(trained.checkpoint, dataset)
        return dataset, ""
    sessions = [line["data"] for line in metrics if line["kind"] == "session"]
    if not sessions:
        return None, "Nothing says which data set this network was trained on: give its shards folder as DATA."
    place = Path(sessions[-1])
    try:
        if not (place / MANIFEST).exists():
            gone = f"The shards that the run was trained on are not at {place} any more: give their folder as DATA."
            return None, gone
        dataset = Dataset.load(place)
        dataset.check_sizes()
        if trained is not None:
            check_same_classes(trained.checkpoint, dataset)
    except (UserError, OSError) as error:  # another user's folder, for one
        return None, f"The run's shards cannot be used: {error}. Give their folder as DATA."
    return dataset, ""
