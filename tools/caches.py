"""Where libraries keep their caches, on machines where the usual place cannot be written: read-only roots, no home."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Cache:
    """Of one library."""

    variable: str
    """What moves it."""
    name: str
    """Of its folder."""
    usual: tuple[tuple[str, str], ...]
    """Where the library has it otherwise: each by the variable that names it and by its name in the user's home."""
    room: int
    """Bytes that must be free: matplotlib needs a folder, and writes there what fits; machine code must fit."""


CACHES = (
    Cache("MPLCONFIGDIR", "matplotlib", (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config")), 0),
    Cache("NUMBA_CACHE_DIR", "numba", (("XDG_CACHE_HOME", ".cache"),), 64 * MIB),
    Cache("TRITON_CACHE_DIR", "triton", (("TRITON_HOME", ".triton"),), 64 * MIB),
)

_placed: set[str] = set()
"""The variables that this process set, and not the user."""


def place_caches(fallback: Path | None = None) -> None:
    """Send the caches of matplotlib, numba and Triton into `fallback` where their own places cannot be written.

    Without a writable cache matplotlib cannot be imported, Triton compiles nothing, and numba compiles at every start.
    None: a folder of this user in the first place for temporary files that can be written; nothing changes where there
    is none.  A place that the user chose and that cannot be written is named on standard error; one that was found
    before yields to a `fallback` that is given.  To be called before these libraries are imported; started processes
    inherit it.
    """
    for cache in CACHES:
        if must_move(cache):
            folder = fallback if fallback is not None else temporary_folder(cache.room)
            if folder is not None:
                move(cache, folder.absolute() / cache.name)


def move(cache: Cache, place: Path) -> None:
    """Name the place in the cache's variable."""
    chosen = os.environ.get(cache.variable)
    if chosen and cache.variable not in _placed:
        text = f"alexnet-fast: {cache.variable} is {chosen}, which cannot be written; {place} is used instead."
        print(text, file=sys.stderr)
    os.environ[cache.variable] = str(place)
    _placed.add(cache.variable)


def must_move(cache: Cache) -> bool:
    """Whether a cache has no place that can be written, or only one that was found here."""
    if chosen := os.environ.get(cache.variable):
        return cache.variable in _placed or not is_writable(Path(chosen).absolute())
    return not all(is_writable(home_of(*home)) for home in cache.usual)


def home_of(variable: str, name: str) -> Path:
    """The folder that a variable names; without it the one of that name in the user's home, which may not exist."""
    named = os.environ.get(variable)
    return Path(named) if named else Path(os.path.expanduser("~")) / name  # noqa: PTH111 (it raises where no home is)


def is_writable(folder: Path) -> bool:
    """Whether files could be made in a folder, which may have to be made itself."""
    while not os.path.exists(folder):  # noqa: PTH110 (False, no error, below a folder that may not be entered)
        if folder.parent == folder:
            return False
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def temporary_folder(room: int) -> Path | None:
    """A folder that only this user can write, made if need be, with `room` bytes free; None where there is none."""
    for place in temporary_places():
        folder = place / f"alexnet-fast-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found, disk = folder.lstat(), os.statvfs(folder)
        except OSError:
            continue
        # Compiled code is kept there and run: another user may have made a folder of this name first.
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        if own and os.access(folder, os.W_OK | os.X_OK) and disk.f_bavail * disk.f_frsize >= room:
            return folder
    return None


def temporary_places() -> Iterator[Path]:
    """Where temporary files go, in order of preference; the memory that is a disk last, for it is small."""
    yield from (Path(named) for name in ("TMPDIR", "TEMP", "TMP") if (named := os.environ.get(name)))
    yield from (Path("/tmp"), Path("/var/tmp"), Path.cwd(), Path("/dev/shm"))
