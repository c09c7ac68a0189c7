"""A run's checkpoints on the disk: the newest stay, those of an abandoned course go, the best has a second name."""

from __future__ import annotations

import errno
import itertools
import shutil
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from alexnet_fast.distributed.mesh import Mesh, broadcast_object
from alexnet_fast.network.model import Architecture
from alexnet_fast.runs.checkpoint import (
    BEST,
    Checkpoint,
    checkpoint_path,
    save_checkpoint,
    saved_checkpoints,
    step_in,
    step_of,
)
from alexnet_fast.tools import atomic
from alexnet_fast.tools.messages import counted

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Complaints that removing files can help."""


@dataclass
class Outcome:
    """What became of a checkpoint."""

    step: int | None = None
    """Of the checkpoint."""
    unsaved: str = ""
    """Why it could not be written; "": it was."""
    diverged: str = ""
    """Why it must not be written: which of its tensors is not finite."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user besides."""


class CheckpointManager:
    """Saves checkpoints into one folder, and knows where the run can be resumed from.

    Every process has one; the main rank writes, and all learn what came of it.
    """

    def __init__(self, folder: Path, *, keep: int, mesh: Mesh | None = None, step: int | None = None) -> None:
        """`keep`: how many of the newest stay.  `step`: of the checkpoint that the run was resumed from."""
        self.folder, self.keep = folder, keep
        self.mesh = mesh if mesh is not None else Mesh()
        self.step = step
        """Of the newest good checkpoint; None: there is none."""
        self.unsaved = ""
        """Why the one after it could not be written; "": it was, or it was not tried yet."""
        self._tried = time.monotonic()

    @property
    def minutes_since(self) -> float:
        """Since saving was last tried."""
        return (time.monotonic() - self._tried) / 60

    def newest(self) -> str:
        """Half a sentence: where the run can be resumed from."""
        if self.step is None:
            return "no checkpoint was saved before"
        return f"the last good checkpoint is the one after step {self.step:,}"

    def complaint(self) -> str:
        """A clause and what to do, after a checkpoint could not be written."""
        return f"its weights could not be saved ({self.unsaved}); {self.newest()}. Make room in {self.folder}"

    def begin(self, start: Checkpoint | None) -> None:
        """On the main rank: put in order what a killed process left, while the run's lock is held.

        `start`: what the run is resumed from.  Half-written files go; if the process was killed before it marked its
        best checkpoint, that is done now.
        """
        for file in self.folder.glob(".*.pt.partial"):
            file.unlink(missing_ok=True)
        if start is not None and start.is_best:
            file, best = checkpoint_path(self.folder, start.step), self.folder / BEST
            if file.exists() and step_in(best) < start.step:
                with suppress(OSError):  # the run itself can be resumed
                    mark_best(file)

    def set_aside(self, step: int, metrics: Path) -> str | None:
        """Move the checkpoints after `step`, and a copy of the metrics, where nothing overwrites them.

        For a run that goes back to an older checkpoint by its user's wish.  Returns a sentence about it; None: there
        are none.  On the main rank.
        """
        newer = [file for file in (*saved_checkpoints(self.folder), self.folder / BEST) if step_in(file) > step]
        if not newer:
            return None
        places = (self.folder / f"set-aside-{number}" for number in itertools.count(1))
        place = next(place for place in places if not place.exists())
        place.mkdir()
        if metrics.exists():
            shutil.copy2(metrics, place)
        for file in newer:
            file.rename(place / file.name)
        return f"{counted(len(newer), 'newer checkpoint')} and a copy of {metrics.name} were moved to {place}."

    def save(self, checkpoint: Checkpoint | None) -> Outcome:
        """Write, mark the best, drop what is no longer needed; what was there before stays if that cannot be.

        All ranks call it together; only the main rank needs the checkpoint.
        """
        outcome = broadcast_object(
            self.mesh, self._save(checkpoint) if checkpoint is not None and self.mesh.is_main_rank else Outcome()
        )
        if not outcome.diverged:
            self._tried, self.unsaved = time.monotonic(), outcome.unsaved
            if not outcome.unsaved:
                self.step = outcome.step
        return outcome

    def _save(self, checkpoint: Checkpoint) -> Outcome:
        outcome = Outcome(checkpoint.step, diverged=first_not_finite(checkpoint))
        if outcome.diverged:
            return outcome
        file = checkpoint_path(self.folder, checkpoint.step)
        try:
            self.write(file, checkpoint, outcome)
        except OSError as error:
            outcome.unsaved = error.strerror or str(error)
            return outcome
        if checkpoint.is_best:
            try:
                mark_best(file)
            except OSError as error:
                outcome.notes.append(
                    f"{self.folder / BEST} could not be written ({error.strerror}): {file.name} is the best so far."
                )
        self.drop_old(checkpoint.step)
        return outcome

    def write(self, file: Path, checkpoint: Checkpoint, outcome: Outcome) -> None:
        """Write the file; where the disk is full, remove old checkpoints until it fits.  Raises OSError."""
        while True:
            try:
                return save_checkpoint(file, checkpoint)
            except OSError as error:  # noqa: PERF203
                old = self.oldest_to_spare() if error.errno in FULL else None
                if old is None:
                    raise
                old.unlink()
                outcome.notes.append(f"The disk is full: {old.name} was removed to make room for {file.name}.")

    def oldest_to_spare(self) -> Path | None:
        """The oldest checkpoint beside the newest whole one, which must stay."""
        saved = saved_checkpoints(self.folder)
        whole = [file for file in saved if zipfile.is_zipfile(file)]
        return next((file for file in saved if whole and file != whole[-1]), None)

    def drop_old(self, step: int) -> None:
        """Keep the newest ones up to the one after `step`, which was just written.

        Later ones are of a course that was left: steps count anew where an epoch has another number of them.
        """
        for file in saved_checkpoints(self.folder):
            if step_of(file) > step:
                file.unlink(missing_ok=True)
        for file in saved_checkpoints(self.folder)[: -self.keep]:
            file.unlink(missing_ok=True)


def lack_of_room(folder: Path, architecture: Architecture, keep: int) -> str | None:
    """A warning before checkpoints that will not fit; None: there is room."""
    weights = sum(torch.Size(shape).numel() for shape in architecture.weight_shapes.values())
    files = keep + 2  # the best, and the one that is being written
    needed = files * 2 * 4 * weights  # weights and momentum in float32
    free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.glob("*.pt"))
    if free >= needed:
        return None
    return (
        f"{folder}: {free / 1e9:.2g} GB are free, and this run's checkpoints need {needed / 1e9:.2g} GB. Where the "
        "disk is full, older ones are removed, and training continues without new ones."
    )


def first_not_finite(checkpoint: Checkpoint) -> str:
    """A clause that names the first weight or momentum with NaN or infinity in it; "" where there is none."""
    for kind, tensors in (("", checkpoint.model), ("the momentum of ", checkpoint.optimizer or {})):
        for name, tensor in tensors.items():
            least, greatest = tensor.aminmax()  # NaN if any is; many times as fast as isfinite() of each number
            if not bool(least.isfinite() & greatest.isfinite()):
                return f"after step {checkpoint.step:,} there are NaN or infinite numbers in {kind}{name}"
    return ""


def mark_best(file: Path) -> None:
    """Give the checkpoint the second name best.pt: a hard link, or a copy where the file system has none."""
    atomic.link(file, file.with_name(BEST))
