"""Folders and files wherever they are: local paths, and URLs (`s3://…`) through fsspec, imported only where needed.

A folder is named by a string: an absolute local path, or a URL.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from alexnet_fast.tools.errors import UsageError, UserError

COMPRESSED = (".xz", ".gz", ".tgz", ".bz2", ".zst", ".zip", ".7z", ".rar")
"""Ends of names of what is to be unpacked first."""


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL, such as s3://bucket/key."""
    return "://" in str(path)


def as_text(path: str | Path) -> str:
    """A path or URL as text: `file:///data` is the local path /data, `s3:/bucket` a URL that went through pathlib."""
    text = re.sub(r"\Afile:/+", "/", str(path))
    return re.sub(r"\A([a-z][a-z0-9+.-]+):/+", r"\1://", text) if isinstance(path, Path) else text


def copied_first(url: str) -> str:
    """How to bring a folder of a store to a disk, for people."""
    name = url.rpartition("/")[2]
    if url.startswith("s3://"):
        return f"`aws s3 sync {shlex.quote(url)} {shlex.quote(name)}`"
    return f"copy the folder, say to {name}"


def absolute(path: str | Path) -> str:
    """The path as workers with another working directory can use it."""
    text = as_text(path)
    return text.rstrip("/") if is_url(text) else str(Path(text).absolute())


def join(folder: str, relative: str) -> str:
    return f"{folder.rstrip('/')}/{relative}" if relative else folder


def open_system(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path there; UsageError where its package is not installed.

    Only scheme and host are given to fsspec to understand.  What follows is a name, in which `::`, `#` or `?` mean
    nothing, as they may stand in an object's key.
    """
    scheme, _, rest = url.partition("://")
    host, slash, name = rest.partition("/")
    system, root = open_host(f"{scheme}://{host}")
    return system, f"{root.rstrip('/')}/{name}" if slash else root


@cache
def open_host(url: str) -> tuple[Any, str]:
    """The file system behind a URL of scheme and host alone, and its root."""
    if "::" in url:
        raise UsageError(f"{url}: is a chain of URLs. Give the URL of a folder or of a tar.")
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        remedy = (
            "Install it: pip install 'alexnet-fast[s3]'." if url.startswith("s3:") else "Give a path, or a URL of s3."
        )
        raise UsageError(f"{url}: cannot be reached from here ({error}). {remedy}") from error
    return system, root


def list_folder(folder: str) -> dict[str, bool]:
    """Name -> whether it is a folder, of everything in a folder, sorted; UsageError where there is no such folder."""
    if not is_url(folder):
        if not Path(folder).exists():
            raise UsageError(f"{folder}: there is no such folder. Give the folder that holds the images.")
        try:
            with os.scandir(folder) as entries:
                # Path.is_dir takes a link to itself for no folder, where entry.is_dir raises.
                return dict(
                    sorted(
                        (entry.name, Path(entry).is_dir() if entry.is_symlink() else entry.is_dir())
                        for entry in entries
                    )
                )
        except PermissionError as error:
            raise unreadable(folder, error, "") from error
        except OSError as error:
            remedy = "Give a folder, or a tar."
            if Path(folder).suffix.lower() in COMPRESSED:
                remedy = "It is compressed: unpack it, and give the folder or the tar that comes out."
            raise UsageError(f"{folder}: cannot be listed ({error.strerror}). {remedy}") from error
    system, path = open_system(folder)
    with explaining(folder, "listed"):
        listed = system.ls(path, detail=True)
    names = {entry["name"].rstrip("/"): entry["type"] == "directory" for entry in listed}
    names.pop(path.rstrip("/"), None)  # itself: a folder without a name is in it, of keys with two slashes
    return dict(sorted((name.rpartition("/")[2], folder_or_not) for name, folder_or_not in names.items()))


def is_folder(folder: str) -> bool:
    if not is_url(folder):
        return Path(folder).is_dir()
    system, path = open_system(folder)
    return bool(system.isdir(path))


def open_file(file: str | Path) -> IO[bytes]:
    """A file of this machine, opened for reading; OSError, as from `check_regular`."""
    check_regular(file)
    return Path(file).open("rb")


def check_regular(file: str | Path) -> None:
    """OSError where `file`, links followed, is not there, or is no regular file.

    A folder has no bytes, a pipe may never get any, and those of a device need not end.
    """
    mode = Path(file).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(file))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(file))


def unreadable(file: str | Path, error: OSError, remedy: str) -> UserError:
    """That a file or folder cannot be read, why, and what to do: `remedy`, or for want of permission another."""
    if isinstance(error, PermissionError):
        remedy = "Change its permissions, or those of a folder above it."
    return UserError(f"{file}: cannot be read ({error.strerror or error}). {remedy}")


def read_file(path: str) -> bytes:
    """A whole small file; UserError where it cannot be read."""
    if is_url(path):
        return read_range(path, 0, None)
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error, "Repair it, or move it away.") from error


def read_range(url: str, offset: int, size: int | None) -> bytes:
    """`size` bytes of a stored file from `offset` on (None: to its end), in one request."""
    system, path = open_system(url)
    with explaining(url, "read"):
        try:
            # A start, be it 0: without one s3fs asks for the size first.
            content = system.cat_file(path, start=offset, end=None if size is None else offset + size)
        except OSError:
            if system.info(path)["size"] > 0:
                raise
            content = b""  # of an empty object no range can be given
    return bytes(content)


@contextmanager
def local_copy(file: str) -> Iterator[Path | None]:
    """A file as one of this machine: itself, or a temporary copy while the block lasts; None where there is none.

    OSError, as from `check_regular`, where it is no file.
    """
    if not is_url(file):
        there: Path | None = Path(file)
        try:
            check_regular(file)
        except FileNotFoundError:
            there = None
        yield there
        return
    system, path = open_system(file)
    with tempfile.NamedTemporaryFile(prefix="alexnet-fast-") as copy:
        found: Path | None = Path(copy.name)
        with explaining(file, "copied to this machine's temporary folder"):
            try:
                system.get_file(path, copy.name)
            except FileNotFoundError:
                found = None
        yield found


@contextmanager
def explaining(url: str, what: str) -> Iterator[None]:
    """The store's complaints as a sentence with a remedy."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"{url}: cannot be {what}, there is no such bucket, folder or file ({error}). Look for a slip in the URL."
        ) from error
    except PermissionError as error:
        raise UserError(f"{url}: may not be {what} ({error}). Give these credentials the right to.") from error
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore")):
            raise
        remedy = (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            if "credentials" in str(error).lower()
            else ("Run the same command again when that is fixed: it resumes where it stopped.")
        )
        raise UserError(f"{url}: cannot be {what} ({error}). {remedy}") from error
