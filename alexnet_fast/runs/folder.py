"""A run's folder: recipe.toml, metrics.jsonl, checkpoints/, figures/, result.json; one living process at a time."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_fast.runs.lock import InUseError, is_locked, locked
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import to_copy
from alexnet_fast.tools.numbers import is_number
from alexnet_fast.tools.storage.filesystem import open_file

LOCK = ".lock"
CHECKPOINTS = "checkpoints"
CACHES = ".cache"
"""Libraries' caches, on machines where their usual places cannot be written."""
RESULT_NUMBERS = ("steps", "epochs", "seconds")
"""Keys of result.json by which it is one."""
METRICS_NUMBERS = {
    "train": ("loss", "error", "images_per_s", "data_wait", "lr_weights"),
    "val": ("views", "loss", "top1_error", "top5_error"),
}
"""Kind of a line of metrics.jsonl -> the numbers, or nulls, that whoever reads it counts on."""
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
        return self.path / CHECKPOINTS

    @property
    def caches(self) -> Path:
        return self.path / CACHES

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def conv1(self) -> Path:
        """conv1's weights after each epoch, for the report's filmstrip."""
        return self.path / "conv1"

    @property
    def result(self) -> Path:
        """Written when the run is done."""
        return self.path / "result.json"

    def holds_a_run(self) -> bool:
        """Whether there is something to resume."""
        return self.recipe.exists() or any(self.checkpoints.glob("*.pt"))

    def is_unbegun(self) -> bool:
        """Whether there is no more than what a process makes that is killed before it has written recipe.toml."""
        made, files = (self.checkpoints, self.figures), (LOCK, CACHES, atomic.partial_name(self.recipe).name)
        if not all(path in made or path.name in files for path in self.path.iterdir()):
            return False
        return not any(path.exists() and (not path.is_dir() or any(path.iterdir())) for path in made)

    def check_resumable(self) -> None:
        """UsageError where there is no run."""
        if not self.holds_a_run():
            raise UsageError(
                f"--resume: there is no run in {self.path}. Give the run's folder with --out, or omit --resume to "
                "begin one."
            )

    @contextmanager
    def taken(self, *, resume: bool) -> Iterator[None]:
        """Make the folder, or find the run to resume, and keep other processes out in the block.

        What was made is removed again if the block fails before it has written recipe.toml: nothing was begun.
        Raises UsageError or UserError where there can be no run.
        """
        made = [path for path in (self.path, *self.path.absolute().parents) if not path.exists()]
        new = bool(made) or (self.path.is_dir() and self.is_unbegun())
        with ExitStack() as stack:
            try:
                self.prepare(resume=resume)
                stack.enter_context(self.lock())
            except InUseError:
                raise  # what is there is the other's
            except BaseException:
                if made:
                    self.remove_empty(made)
                raise
            try:
                self.make_folders(resume=resume)  # a process whose start failed meanwhile has removed them
                if not resume and self.holds_a_run():  # of a process that ended between the look and the lock
                    raise UsageError(self.held_run(going=False))
                yield
            except BaseException:
                if new and not self.recipe.exists():
                    self.remove_beginning(made)
                raise

    def prepare(self, *, resume: bool) -> None:
        """Make the folder, or find the run to resume.  Raises UsageError or UserError where neither can be."""
        if resume:
            self.check_resumable()
        if not resume and self.holds_a_run():
            raise UsageError(self.held_run(going=self.is_running()))
        if not resume and self.path.exists() and not (self.path.is_dir() and self.is_unbegun()):
            raise UsageError(f"{self.path} is there and is no run of this program: choose another --out.")
        self.make_folders(resume=resume)

    def make_folders(self, *, resume: bool) -> None:
        """UserError where they cannot be made."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.figures.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"{error.filename} is a file where a run has a folder: move it away.") from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}). {self.remedy(resume)}") from error

    def held_run(self, *, going: bool) -> str:
        """What to do where a new run finds another."""
        todo = "a process is training there now; choose" if going else "resume it with --resume, or choose"
        return f"{self.path} holds a run already: {todo} another --out."

    def remove_beginning(self, made: Sequence[Path]) -> None:
        """Remove an empty run, and those of the folders around it (the inner first) that hold nothing else.

        While it is locked: afterwards it may be another process's.
        """
        with suppress(OSError):  # it was not made
            (self.path / LOCK).unlink()
        shutil.rmtree(self.caches, ignore_errors=True)
        self.remove_empty(made)

    def remove_empty(self, made: Sequence[Path]) -> None:
        """Remove those of the run's folders, and of the ones around it, in which nothing is."""
        for folder in (self.checkpoints, self.figures, *made):
            with suppress(OSError):  # the same, or something is in it
                folder.rmdir()

    def remedy(self, resume: bool) -> str:
        """What to do where the folder cannot be written."""
        return "Make room, or give yourself the right to write there." if resume else "Choose another --out."

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out as long as this one lives.  Raises UserError."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / LOCK))
            except OSError as error:
                raise UserError(f"{self.path}: cannot be written ({error.strerror}). {self.remedy(True)}") from error
            yield

    def is_running(self) -> bool:
        """Whether a living process holds the folder."""
        return is_locked(self.path / LOCK)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; what a power cut left of others is passed over.

        Raises UserError where something else has its name.
        """
        if not self.metrics.exists():
            return []
        try:
            with open_file(self.metrics) as file:
                text = file.read().decode(errors="replace")
        except OSError as error:
            raise UserError(
                f"{self.metrics}: cannot be read ({error.strerror}). Repair that, or move it away."
            ) from error
        lines = text.split("\n")
        found = [metrics_line(line) for line in lines[:-1]]  # after the last newline: nothing, or a line cut short
        return [line for line in found if line is not None]

    def read_result(self) -> dict[str, Any] | None:
        """result.json; None where there is none, or none that can be read."""
        try:
            with open_file(self.result) as file:
                content = json.load(file)
        except (OSError, ValueError, RecursionError):
            return None
        whole = isinstance(content, dict) and all(is_number(content.get(key)) for key in RESULT_NUMBERS)
        return content if whole else None

    def forget_after(self, epoch: float, *, evaluations_too: bool = False) -> None:
        """Drop what was noted and kept after `epoch` (whole and parts), with `evaluations_too` the evaluations at it.

        That will be done again.  By epochs, since steps count anew where an epoch has another number of them.
        """
        kept = [
            line
            for line in self.read_metrics()
            if line["epoch"] <= epoch + EPOCH_ROUNDING
            and not (evaluations_too and line["kind"] == "val" and line["epoch"] >= epoch - EPOCH_ROUNDING)
        ]
        atomic.write_text(self.metrics, "".join(to_json(line) + "\n" for line in kept))
        for file in self.conv1.glob("epoch-*.npy"):
            if (number := file.stem.removeprefix("epoch-")).isdecimal() and int(number) > epoch + EPOCH_ROUNDING:
                file.unlink(missing_ok=True)


def metrics_line(text: str) -> dict[str, Any] | None:
    """What a line of metrics.jsonl says, null for NaN and infinity (Python's words for them); None: it is damaged."""
    try:
        line = json.loads(text, parse_constant=lambda word: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not all(is_number(line.get(key)) for key in ("step", "epoch")):
        return None
    kind = line.get("kind")
    if kind in ("event", "diverged"):
        return line if isinstance(line.get("event"), str) else None
    if kind == "session":
        options = line.get("options", 0)
        words = [line.get("data"), *(options if isinstance(options, list) else [])]
        return line if isinstance(options, list | None) and all(isinstance(word, str) for word in words) else None
    numbers = METRICS_NUMBERS.get(kind) if isinstance(kind, str) else None
    if numbers is None or not all(key in line and (line[key] is None or is_number(line[key])) for key in numbers):
        return None
    return line


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that any program reads: it has neither NaN nor infinity, null stands for both."""
    text = json.dumps(finite(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # of a file's name that is no UTF-8, as JSON escapes it


def finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def saying_what_is_full(run: Path, again: str) -> Iterator[None]:
    """A disk that takes no more (full, over quota, read-only) becomes a UserError; `again` resumes the run."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise UserError(
            f"{run}: cannot be written ({error.strerror}). What was saved is whole. Free some space, then resume:\n"
            f"{to_copy(again)}"
        ) from error
