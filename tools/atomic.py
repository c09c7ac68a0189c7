"""Files that have their names only when they are whole: written aside, flushed to the disk, renamed.

Whatever ends the process in between, also a power cut, leaves under the final name what was there before, or nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4


def partial_name(path: Path) -> Path:
    """Where a file or folder is written before it has its name: a hidden neighbor.

    The name is always the same, so that the next write replaces what a killed process left.
    """
    return path.with_name(f".{path.name}.partial")


@contextmanager
def writing(path: Path, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """A binary file to write, which becomes `path` when the block ends well; if not, `path` stays as it was.

    Of processes that write one file at the same time, the last to end has its content there.  partial: where it is
    written meanwhile, on the same file system, under a name of its own.  Raises OSError (disk full, no permission),
    which names a file.
    """
    try:
        with _claimed(path) if partial is None else nullcontext(partial) as partial:
            try:
                with partial.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                _rename(partial, path)
            except BaseException:  # and not after it has its name: the next writer may have begun by then
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.filename is None:  # the system names no file where a write fails, as on a full disk
            error.filename = str(path)
        raise


def check_writable(path: Path) -> None:
    """OSError where `writing` could not begin; what lies there stays as it is."""
    with _claimed(path) as partial:
        partial.touch()
        partial.unlink()


@contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path`: its `partial_name`, or another name if that cannot be had for oneself."""
    descriptor = _claim(partial_name(path))
    if descriptor is None:
        yield path.with_name(f".{path.name}.{uuid4().hex}.partial")
        return
    try:
        yield partial_name(path)
    finally:
        os.close(descriptor)


def _claim(partial: Path) -> int | None:
    """Make an empty file of this name and lock it; None where a living process writes it, or where that is not known.

    What a killed process left is removed, not emptied: it may be a second name of a file that is in use.
    """
    while True:
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            return None  # another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # locked, or a file system without locks
            os.close(descriptor)
            return None
        if is_file_at(descriptor, partial):
            opened = os.fstat(descriptor)
            if opened.st_size == 0 and opened.st_nlink == 1:
                return descriptor
            partial.unlink()
        os.close(descriptor)  # it has got its name, or was removed, between our opening and our locking it


def is_file_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one under `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file; OSError, as from `writing`."""
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole file in UTF-8; OSError, as from `writing`."""
    write_bytes(path, text.encode("utf-8"))


def link(existing: Path, path: Path) -> None:
    """Give a file the second name `path`: a hard link, or a copy where the file system has none.  Raises OSError."""
    partial = partial_name(path)
    partial.unlink(missing_ok=True)
    try:
        os.link(existing, partial)
    except OSError:
        with existing.open("rb") as source, writing(path) as copy:
            shutil.copyfileobj(source, copy)
        return
    try:
        _rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def making_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` when the block ends well; OSError where that is there already."""
    partial = partial_name(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            _sync(path)
        _sync(partial)
        if folder.exists():
            raise FileExistsError(f"{folder}: is there already")
        _rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def rename(partial: Path, path: Path) -> None:
    """Give a file that is written elsewhere, on the same file system, its name.  Raises OSError."""
    _sync(partial)
    _rename(partial, path)


def _rename(partial: Path, path: Path) -> None:
    partial.replace(path)
    with suppress(OSError):  # some network file systems cannot; only a power cut would show the difference
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's own entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
