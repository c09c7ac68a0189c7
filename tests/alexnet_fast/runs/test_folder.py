"""A run's folder: taken and given back, damaged files, and a disk or a user without the right to write."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from alexnet_fast.runs.folder import RunFolder, to_json
from alexnet_fast.runs.lock import InUseError, is_locked, locked
from alexnet_fast.tools.errors import UsageError, UserError


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["run", "runs/deep/run"])
def test_a_start_that_failed_leaves_nothing(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / name)
    with pytest.raises(UsageError, match="too large"), folder.taken(resume=False):
        assert folder.checkpoints.is_dir() and folder.is_running()
        raise UsageError("batch too large")
    assert everything(tmp_path) == []
    with folder.taken(resume=False):  # the corrected command
        folder.recipe.write_text("seed = 1")
    assert everything(folder.path) == [".lock", "checkpoints", "figures", "recipe.toml"]


def test_what_a_process_left_that_was_killed_at_its_start_is_no_run(tmp_path: Path) -> None:
    """Killed before recipe.toml: neither --resume nor a new start was possible there."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare(resume=False)
    (folder.path / ".lock").write_text("123")
    (folder.path / ".recipe.toml.partial").write_text("seed")
    with pytest.raises(UsageError, match=r"no run in .* omit --resume"), folder.taken(resume=True):
        raise AssertionError("not reached")
    with folder.taken(resume=False):
        folder.recipe.write_text("seed = 1")
        with pytest.raises(UsageError, match="is training there now"), folder.taken(resume=False):
            raise AssertionError("not reached")
    with pytest.raises(UsageError, match="holds a run already"), folder.taken(resume=False):
        raise AssertionError("not reached")


def test_a_run_that_began_and_ended_before_the_lock_was_held_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, real = RunFolder(tmp_path / "run"), RunFolder.lock

    @contextmanager
    def lock(self: RunFolder) -> Iterator[None]:
        monkeypatch.setattr(RunFolder, "lock", real)
        with RunFolder(self.path).taken(resume=False):
            self.recipe.write_text("seed = 1")
        with self.lock():
            yield

    monkeypatch.setattr(RunFolder, "lock", lock)
    with pytest.raises(UsageError, match="holds a run already: resume it"), late.taken(resume=False):
        raise AssertionError("not reached")
    assert late.recipe.read_text() == "seed = 1"


def test_a_start_that_fails_removes_nothing_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next took the folder between the end of the lock and the clearing up, which removed its lock and folders."""
    folder, name = RunFolder(tmp_path / "run"), "alexnet_fast.runs.folder.locked"
    nexts = ExitStack()

    @contextmanager
    def then_taken(file: Path) -> Iterator[None]:
        monkeypatch.setattr(name, locked)
        try:
            with locked(file):
                yield
        finally:
            nexts.enter_context(folder.taken(resume=False))

    monkeypatch.setattr(name, then_taken)
    with pytest.raises(UserError, match="no such device"), folder.taken(resume=False):
        raise UserError("no such device")
    with nexts:
        assert folder.checkpoints.is_dir() and folder.figures.is_dir()
        with pytest.raises(InUseError), folder.lock():
            raise AssertionError("not reached")
        folder.recipe.write_text("seed = 1")


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`info` or `report` of a stopped run, at the moment that it was resumed: it was "in use" by the dead process."""
    file = tmp_path / ".lock"
    with file.open("wb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(look, fcntl.LOCK_UN))
        with locked(file):
            assert is_locked(file)


def test_a_lock_that_its_holder_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a failed start, or of the demo's last run: two processes each held a file of that name."""
    file, real = tmp_path / ".lock", fcntl.flock

    def flock(opened: IO[bytes], how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        file.unlink()
        real(opened, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(file), pytest.raises(InUseError, match=f"in use by process {os.getpid()}"), locked(file):
        raise AssertionError("not reached")


def test_a_beginning_with_something_of_the_users_in_it_is_not_taken(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare(resume=False)
    (folder.figures / "mine.png").touch()
    with pytest.raises(UsageError, match="is no run"), folder.taken(resume=False):
        raise AssertionError("not reached")


def test_a_second_process_leaves_the_beginning_of_the_first_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.taken(resume=False):
        before = everything(tmp_path)
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), folder.taken(resume=False):
            raise AssertionError("not reached")
        assert everything(tmp_path) == before


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.recipe.touch()
    folder.checkpoints.touch()
    with pytest.raises(UserError, match=r"checkpoints is a file .* move it away"), folder.taken(resume=True):
        raise AssertionError("not reached")


def test_a_run_that_had_begun_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError), folder.taken(resume=False):
        folder.recipe.write_text("seed = 1")
        raise UserError("the disk is gone")
    assert folder.recipe.exists() and folder.checkpoints.is_dir()
    with pytest.raises(UserError), folder.taken(resume=True):
        raise UserError("again")
    assert folder.recipe.exists()


def test_an_empty_folder_of_the_users_stays_and_is_empty_again(tmp_path: Path) -> None:
    with pytest.raises(UserError), RunFolder(tmp_path).taken(resume=False):
        raise UserError("no")
    assert tmp_path.is_dir() and everything(tmp_path) == []


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES"])
def test_a_lock_that_cannot_be_made_is_reported(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    folder = RunFolder(tmp_path)
    folder.recipe.touch()
    real = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == ".lock":
            number = getattr(errno, code)
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be written .*Make room"), folder.taken(resume=True):
        raise AssertionError("not reached")


def test_a_full_disk_locks_all_the_same(tmp_path: Path) -> None:
    """The owner's name does not fit, and nobody stumbles over that."""
    (tmp_path / ".lock").symlink_to("/dev/full")
    with RunFolder(tmp_path).lock():
        assert RunFolder(tmp_path).is_running()
    assert not RunFolder(tmp_path).is_running()


def test_damaged_metrics_are_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [{"kind": "event", "step": step, "epoch": step / 10, "event": "x"} for step in range(4)]
    texts = [json.dumps(line).encode() for line in lines]
    texts[1:1] = [b"\0\0\0\0", b'{"kind": "tr', b"7", b'{"kind": "train"}', b"\xff\xfe"]
    texts += [b'{"kind": "train", "step": 3, "epoch": 1, "loss": 1}', b'{"kind": "other", "step": 3, "epoch": 1}']
    folder.metrics.write_bytes(b"\n".join(texts) + b"\n")
    assert folder.read_metrics() == lines
    folder.conv1.mkdir()
    for epoch in range(3):
        (folder.conv1 / f"epoch-{epoch:06d}.npy").touch()
    folder.forget_after(0.2)
    assert [file.name for file in folder.conv1.iterdir()] == ["epoch-000000.npy"]  # the others will come again
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == lines[:3]


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0\0", "{}", '{"steps": 1, "epochs": true, "seconds": 1}'])
def test_a_damaged_result_is_none(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.result.write_text(content)
    assert folder.read_result() is None


def test_pythons_words_for_what_is_not_finite_are_read_as_null(tmp_path: Path) -> None:
    """As another program may have written them: the page's scripts would stop at a NaN, and `compare` show nan%."""
    folder = RunFolder(tmp_path)
    line = {"kind": "val", "step": 1, "epoch": 1.0, "views": 1, "top1_error": 1.0, "top5_error": None}
    folder.metrics.write_text(
        json.dumps(line | {"loss": math.nan}) + "\n" + json.dumps(line | {"step": math.inf}) + "\n"
    )
    (found,) = folder.read_metrics()
    assert found == line | {"loss": None}


def test_json_has_neither_nan_nor_infinity() -> None:
    text = to_json({"loss": math.nan, "rates": (1.0, math.inf), "deep": {"value": -math.inf}, "name": "ε"})
    refuse = pytest.fail
    assert json.loads(text, parse_constant=refuse) == {
        "loss": None, "rates": [1.0, None], "deep": {"value": None}, "name": "ε",
    }  # fmt: skip
