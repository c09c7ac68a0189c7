"""atomic.py: a file has its name when it is whole and on the disk, and not before, however the write ends."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from alexnet_fast.tools import atomic


def test_a_file_gets_its_name_when_it_is_whole_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    steps: list[str] = []
    real_replace = Path.replace

    def replace(self: Path, target: Path) -> Path:
        steps.append(f"rename {self.read_bytes()!r}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append("sync"))
    monkeypatch.setattr(Path, "replace", replace)
    with atomic.writing(file) as opened:
        opened.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert steps == ["sync", "rename b'new'", "sync"]  # the content, then the name, then the folder that holds it
    assert list(tmp_path.iterdir()) == [file]


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """The system's does not, where a write fails; whoever prints it has nothing else to tell which disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            atomic.write_text(tmp_path / "file", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(tmp_path / "file") and not list(tmp_path.iterdir())


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic.writing(file) as opened:
        opened.write(b"half")
        raise KeyboardInterrupt
    real = Path.open

    def open_full(path: Path, mode: str, **options: Any) -> IO[Any]:
        return real(Path("/dev/full") if "partial" in path.name else path, mode, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_bytes(file, b"half")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_killed_process_leaves_what_was_there_and_the_next_write_clears_up(tmp_path: Path) -> None:
    file = tmp_path / "file"
    atomic.write_text(file, "old")
    work = (
        "import os, signal, sys; from pathlib import Path; from alexnet_fast.tools import atomic\n"
        "with atomic.writing(Path(sys.argv[1])) as f: f.write(b'half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", work, str(file)], check=False).returncode == -signal.SIGKILL
    assert file.read_text() == "old" and atomic.partial_name(file).read_bytes() == b"half"
    atomic.write_text(file, "new é")
    assert file.read_text(encoding="utf-8") == "new é" and list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The one that ended first gave the name to what the other had half written, and the other then failed."""
    file = tmp_path / "file"
    with atomic.writing(file) as second:
        with atomic.writing(file) as first:
            second.write(b"half ")
            second.flush()
            atomic.check_writable(file)
            first.write(b"first")
        assert file.read_bytes() == b"first"
        second.write(b"and half")
    assert file.read_bytes() == b"half and half" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["rename", "unlink"])
def test_a_writer_that_ends_while_another_looks_at_its_file_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, real = tmp_path / "file", fcntl.flock
    partial = atomic.partial_name(file)
    partial.write_bytes(b"first")

    def flock(descriptor: int, how: int) -> None:
        """The first writer ends just before the second one locks what it has opened."""
        monkeypatch.setattr(fcntl, "flock", real)
        partial.replace(file) if name == "rename" else partial.unlink()
        partial.write_bytes(b"third")
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with atomic.writing(file) as opened:
        assert not file.exists() or file.read_bytes() == b"first"
        opened.write(b"second")
    assert file.read_bytes() == b"second" and list(tmp_path.iterdir()) == [file]


def test_a_writer_that_begins_when_another_has_renamed_its_file_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = tmp_path / "file", Path.replace
    second = ExitStack()

    def replace(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", real)
        real(self, target)
        second.enter_context(atomic.writing(file)).write(b"second")
        return target

    monkeypatch.setattr(Path, "replace", replace)
    with second:
        atomic.write_bytes(file, b"first")
        assert file.read_bytes() == b"first"
    assert file.read_bytes() == b"second" and list(tmp_path.iterdir()) == [file]


def test_without_locks_writers_do_not_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    file = tmp_path / "file"
    with atomic.writing(file) as second:
        second.write(b"second")
        atomic.write_bytes(file, b"first")
    assert file.read_bytes() == b"second"


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_never_writes_into_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    first, second, best = (tmp_path / name for name in ("first", "second", "best"))
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    os.link(first, atomic.partial_name(best))  # as a process leaves it that is killed between link and rename
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    for existing in (second, first, second):
        atomic.link(existing, best)
        assert best.read_bytes() == existing.read_bytes()
        assert best.samefile(existing) == links
    assert first.read_bytes() == b"1" and sorted(tmp_path.iterdir()) == sorted([first, second, best])


def test_a_folder_appears_when_it_is_filled(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(RuntimeError), atomic.making_folder(folder) as partial:
        (partial / "a").write_text("a")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic.making_folder(folder) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("a")
        assert not folder.exists()
    assert (folder / "sub" / "a").read_text() == "a" and list(tmp_path.iterdir()) == [folder]
    with pytest.raises(FileExistsError), atomic.making_folder(folder):
        pass
    assert (folder / "sub" / "a").read_text() == "a"
