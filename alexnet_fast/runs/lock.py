"""One living process at a time in a run's folder: the system's lock on a file, or where there is none, its content."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What flock says on file systems without locks: some network and FUSE ones."""


LOOK_SECONDS = 0.05
"""In which `is_locked` has ended, which locks the file itself for a moment."""


class InUseError(UserError):
    """Another process holds the run's folder."""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep other processes out as long as this one lives.  Raises InUseError, OSError where the file cannot be made."""
    with ExitStack() as stack:
        while True:
            opened = stack.enter_context(file.open("a+b", buffering=0))
            by_content = not lock(opened, file)
            if atomic.is_file_at(opened.fileno(), file):
                break  # else its holder removed it, and the folder, between our opening and our locking it
        if not by_content:
            with suppress(OSError):  # a full disk: the system's lock holds without its owner's name too
                write_owner(opened)
        try:
            yield
        finally:
            if by_content:
                with suppress(OSError):
                    opened.truncate(0)


def lock(opened: IO[bytes], file: Path) -> bool:
    """Lock an open file; False where the system cannot, and now its content does.  Raises InUseError."""
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise in_use(file, owner_of(opened)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock_by_content(opened, file)
        return False
    return True


def lock_by_content(opened: IO[bytes], file: Path) -> None:
    """Write this process into the file, if no living one is there.  Raises InUseError, OSError.

    Of processes that look at the same moment, as those of one Slurm job step do, one alone can make the second file.
    """
    turn = file.with_name(f"{file.name}.turn")
    try:
        os.close(os.open(turn, os.O_CREAT | os.O_EXCL))
    except FileExistsError as error:
        raise in_use(file, [], f", or remove {turn} if no training is running") from error
    try:
        if is_alive(owner := owner_of(opened)):
            raise in_use(file, owner, f", or remove {file} if no training is running")
        write_owner(opened)
    finally:
        turn.unlink()


def write_owner(file: IO[bytes]) -> None:
    """Make this process the file's content."""
    file.truncate(0)
    file.write(f"{os.getpid()} {socket.gethostname()}".encode())


def is_locked(file: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with file.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError as error:
                return error.errno in NO_LOCKS and is_alive(owner_of(opened))
    except OSError:
        pass
    return False


def owner_of(file: IO[bytes]) -> list[str]:
    """[process id, host]; less where the file does not say."""
    file.seek(0)
    return file.read(300).decode(errors="replace").split()


def is_alive(owner: list[str]) -> bool:
    """Whether that process lives; one on another machine is taken to."""
    if not owner or not owner[0].isdecimal():
        return False
    return owner[1:] != [socket.gethostname()] or Path("/proc", owner[0]).exists()


def in_use(file: Path, owner: list[str], remedy: str = "") -> InUseError:
    who = " on ".join(owner[:2]) or "unknown"
    return InUseError(f"{file.parent} is in use by process {who}: wait for its end, or stop it{remedy}.")
