"""A run's folder: recipe.toml, metrics.jsonl, checkpoints/, figures/, result.json; one living process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_fast.tools.errors import UsageError, UserError

LOCK = ".lock"
EPOCH_ROUNDING = 5e-7
"""Of epochs in metrics.jsonl, which have six digits after the point: a step is more, up to a million an epoch."""


@dataclass(frozen=True)
class RunFolder:
    """Where things of a run are."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line; see `telemetry`."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def result(self) -> Path:
        """Written when the run is done."""
        return self.path / "result.json"

    def holds_a_run(self) -> bool:
        return self.recipe.exists() or self.checkpoints.exists()

    def prepare(self, *, resume: bool) -> None:
        """Make the folder, or find the run that is to go on.  Raises UsageError or UserError where neither can be."""
        if resume and not self.holds_a_run():
            raise UsageError(f"--resume: there is no run in {self.path}. Leave out --resume to begin one.")
        if not resume and self.holds_a_run():
            raise UsageError(f"{self.path} holds a run already: go on with --resume, or choose another --out.")
        if not resume and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"{self.path} is there and is no run of this program: choose another --out.")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.figures.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}). Choose another --out.") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out as long as this one lives."""
        with (self.path / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise UserError(f"{self.path} is in use by process {owner}: wait for its end, or stop it.") from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def is_running(self) -> bool:
        """Whether a living process holds the folder."""
        try:
            with (self.path / LOCK).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]  # after the last newline: nothing, or a line cut short

    def forget_after(self, epoch: float) -> None:
        """Drop what was measured after `epoch` (whole and parts): that will be done again.

        By epochs, since steps count anew where an epoch has another number of them.
        """
        kept = [line for line in self.read_metrics() if line["epoch"] <= epoch + EPOCH_ROUNDING]
        write_whole(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))


def write_whole(path: Path, text: str) -> None:
    """Write aside, flush to the disk, rename."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def saying_what_is_full(run: Path) -> Iterator[None]:
    """A disk that takes no more (full, over quota, read-only) becomes a UserError with the way on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise UserError(
            f"{run}: cannot be written ({error.strerror}). What was saved is whole: make room, then give the same "
            "command with --resume."
        ) from error
