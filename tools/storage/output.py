"""Where shards are written: a folder in which nothing unfinished ever has its final name."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import as_text, is_url, open_file, unreadable
from alexnet_fast.tools.storage.work_names import LOCK, UNFINISHED, WORK


class Output(Protocol):
    """A place for shards.  Picklable: it travels to the workers.  Names are relative, `/` between folders."""

    def create(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A binary file to write, which gets its final name at once and whole when the block ends well.

        An existing file is replaced.  Raises UserError where the disk is full or may not be written.
        """

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is no such file.  Raises UserError where it cannot be read, or is none."""

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None where there is no such file."""

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of what lies directly in the output, or in a folder of it; none where it is not there.

        Raises UsageError where it is a file, or a link that leads nowhere; UserError where it cannot be read.
        """

    def remove(self, folder: str) -> None:
        """Remove a folder of the output and everything in it, if it is there."""

    def free_bytes(self) -> int | None:
        """Space left; None where nobody knows."""

    def prepare(self) -> None:
        """Make the place if it is not there and clear unfinished files away; UserError where it may not be written."""

    def lock(self) -> AbstractContextManager[None]:
        """Keeps every other run out of this output while the block lasts; UserError where another run is at it."""


def open_output(place: str | Path) -> Output:
    """The output at a folder or a URL (`s3://…`); UsageError where the place is empty, as an unset variable is."""
    if place == "":
        raise UsageError("--out is empty, which would be the folder that you are in. Give --out a new folder.")
    place = as_text(place)
    if is_url(place):
        from alexnet_fast.tools.storage.remote import RemoteOutput

        return RemoteOutput(place)
    return LocalOutput(Path(place))


class LocalOutput:
    """A folder on a file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def __str__(self) -> str:
        return str(self.folder)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        final = self.folder / name
        try:
            with atomic.writing(final, self.folder / WORK / f"{UNFINISHED}{uuid4().hex}") as file:
                yield file
        except OSError as error:
            raise _write_error(final, error) from error

    def read(self, name: str) -> bytes | None:
        try:
            with open_file(self.folder / name) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            remedy = "Bring the file back from a copy, or move away what is there and run the same command again."
            raise unreadable(self.folder / name, error, remedy) from error

    def size(self, name: str) -> int | None:
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> list[str]:
        place = self.folder / folder
        try:
            return sorted(path.name for path in place.iterdir())
        except FileNotFoundError as error:
            if place.is_symlink():
                raise UsageError(f"{place}: is a link that leads nowhere. Remove it, or give another --out.") from error
            return []
        except NotADirectoryError as error:
            file = next((above for above in (place, *place.parents) if above.is_file()), place)
            raise UsageError(f"{file}: is a file. Give --out a folder.") from error
        except OSError as error:
            raise unreadable(place, error, "Give another --out.") from error

    def remove(self, folder: str) -> None:
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self.folder).free

    def prepare(self) -> None:
        try:
            (self.folder / WORK).mkdir(parents=True, exist_ok=True)
            for name in self.names(WORK):
                if name.startswith(UNFINISHED):
                    (self.folder / WORK / name).unlink(missing_ok=True)
        except OSError as error:
            raise _write_error(self.folder, error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        path = self.folder / LOCK
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _write_error(path.parent, error) from error
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # the run before has just removed its folder
            except OSError as error:
                raise _write_error(path, error) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if atomic.is_file_at(descriptor, path):
                    break
            except OSError as error:
                os.close(descriptor)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise UserError(
                        f"{path}: cannot be locked ({error.strerror}). Give --out a folder on a file system with locks."
                    ) from error
                raise UserError(
                    f"{self.folder}: another `alexnet-fast shard` is writing there. Wait until it is done, or give "
                    "another --out."
                ) from error
            os.close(descriptor)  # the run before removed the file between our opening and our locking it
        try:
            yield
        finally:
            os.close(descriptor)


def _write_error(file: Path, error: OSError) -> UserError:
    """What a failed write means for people."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            f"{file}: no space left to write it ({error.strerror}). Make room and run the same command again: "
            "it resumes where it stopped."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(
            f"{file}: may not be written ({error.strerror}). Give --out a folder that you may write, or change its "
            "permissions and run the same command again."
        )
    return UserError(
        f"{file}: cannot be written ({error.strerror or error}). Run the same command again when that is fixed: "
        "it resumes where it stopped."
    )
