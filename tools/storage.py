"""Folders and files wherever they are: local paths, and URLs (`s3://…`) through fsspec, imported only where needed.

A folder is named by a string: an absolute local path, or a URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_fast.tools.errors import UsageError, UserError


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL, such as s3://bucket/key."""
    return "://" in str(path)


def absolute(path: str | Path) -> str:
    """The path as workers with another working directory can use it."""
    return str(path).rstrip("/") if is_url(path) else str(Path(path).absolute())


def join(folder: str, relative: str) -> str:
    return f"{folder.rstrip('/')}/{relative}" if relative else folder


def open_system(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path there; UsageError where its package is not installed."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        remedy = " Install it: pip install 'alexnet-fast[s3]'." if url.startswith("s3:") else ""
        raise UsageError(f"{url}: cannot be reached from here ({error}).{remedy}") from error
    return system, path


def list_folder(folder: str) -> dict[str, bool]:
    """Name -> whether it is a folder, of everything in a folder, sorted; UsageError where there is no such folder."""
    if not is_url(folder):
        if not Path(folder).exists():
            raise UsageError(f"{folder}: there is no such folder. Give the folder that holds the pictures.")
        try:
            with os.scandir(folder) as entries:
                # Path.is_dir takes a link to itself for no folder, where entry.is_dir raises.
                return dict(
                    sorted(
                        (entry.name, Path(entry).is_dir() if entry.is_symlink() else entry.is_dir())
                        for entry in entries
                    )
                )
        except OSError as error:
            raise UsageError(f"{folder}: cannot be listed ({error.strerror}). Give a folder, or a tar.") from error
    system, path = open_system(folder)
    with explaining(folder, "listed"):
        listed = system.ls(path, detail=True)
    names = {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] == "directory" for entry in listed}
    return dict(sorted((name, folder_or_not) for name, folder_or_not in names.items() if name))


def is_folder(folder: str) -> bool:
    if not is_url(folder):
        return Path(folder).is_dir()
    system, path = open_system(folder)
    return bool(system.isdir(path))


def read_file(path: str) -> bytes:
    """A whole small file."""
    return read_range(path, 0, None) if is_url(path) else Path(path).read_bytes()


def read_range(url: str, offset: int, size: int | None) -> bytes:
    """`size` bytes of a stored file from `offset` on (None: to its end), in one request."""
    system, path = open_system(url)
    with explaining(url, "read"):
        content = system.cat_file(path, start=offset or None, end=None if size is None else offset + size)
    return bytes(content)


@contextmanager
def explaining(url: str, what: str) -> Iterator[None]:
    """The store's complaints as a sentence with a remedy."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{url}: cannot be {what}, there is no such bucket, folder or file ({error}).") from error
    except PermissionError as error:
        raise UserError(f"{url}: may not be {what} ({error}). Give these credentials the right to.") from error
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore")):
            raise
        remedy = (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            if "credentials" in str(error).lower()
            else ("Run the same command again when that is mended: it goes on where it stopped.")
        )
        raise UserError(f"{url}: cannot be {what} ({error}). {remedy}") from error
