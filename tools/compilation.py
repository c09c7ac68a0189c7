"""Loops that numba compiles for this machine's processor, once: the machine code is kept from one start to the next.

It is kept in $NUMBA_CACHE_DIR if that is set, else in $XDG_CACHE_HOME/alexnet-fast (~/.cache/alexnet-fast).  Each state
of the sources has a folder of its own there.  Where none can be written the loops are compiled at every start.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from alexnet_fast.tools.errors import UserError

try:
    import numba
    from numba.core.caching import NullCache
except ImportError as error:  # also where it does not know this numpy yet
    raise UserError(
        f"numba cannot be imported ({error}). It compiles the loops that work on a CPU; "
        "install it: pip install -U numba."
    ) from error

Loop = Callable[..., Any]
CONFIG: Any = numba.config
FLOATS = {"contract", "nsz", "arcp"}
"""What the compiler may do to floating-point numbers.  NaN and infinity keep their meaning."""


def part(function: Loop) -> Loop:
    """A function that compiled loops call; it becomes part of their machine code."""
    loop: Loop = numba.njit(nogil=True, error_model="numpy", fastmath=FLOATS)(function)
    return loop


def compiled(function: Loop) -> Loop:
    """A loop over arrays that runs without Python's lock; its machine code is kept.

    The loop is compiled for the types of its arguments by `prepare`, or when it is called with them first.
    """
    return kept(function, part(function))


def compiled_exactly(function: Loop) -> Loop:
    """`compiled`, each operation rounded as it is written."""
    return kept(function, numba.njit(nogil=True)(function))


def kept(function: Loop, loop: Any) -> Loop:
    """The loop made of a function, its machine code kept."""
    folder = cache_folder(Path(function.__code__.co_filename).parent)
    if folder is not None:
        # numba reads the variable when a function is decorated; the user's own functions keep their folder.
        before, CONFIG.CACHE_DIR = CONFIG.CACHE_DIR, str(folder)
        try:
            loop.enable_caching()
        finally:
            CONFIG.CACHE_DIR = before
    return loop  # type: ignore[no-any-return]


def prepare(loop: Any, arguments: Sequence[object]) -> None:
    """Compile a loop for arguments of these types, or load what was compiled before; quick where it has been done.

    Processes that start together wait for the first to compile.
    """
    signature = tuple(numba.typeof(argument) for argument in arguments)  # type: ignore[no-untyped-call]
    if signature in loop.overloads:
        return
    with lock_of(loop):
        try:
            loop.compile(signature)
        except Exception:  # whatever a damaged file raises; what is wrong with the loop itself is raised again
            loop._cache.flush()
            loop.compile(signature)


@contextlib.contextmanager
def lock_of(loop: Any) -> Iterator[None]:
    """One process at a time compiles and keeps a loop: numba would let two give one file two contents."""
    if isinstance(loop._cache, NullCache):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context((Path(loop._cache.cache_path) / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a full disk, or a file system without locks
            loop._cache = NullCache()
        yield


@cache
def cache_folder(sources: Path) -> Path | None:
    """Where the machine code of the loops in a folder's files is kept; None: nowhere, and a line on stderr says so."""
    state = hashlib.sha256(numba.__version__.encode())
    for file in [Path(__file__), *sorted(sources.glob("*.py"))]:
        state.update(file.read_bytes())
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(CONFIG.CACHE_DIR or user / "alexnet-fast") / "compiled" / state.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        variable = "NUMBA_CACHE_DIR" if CONFIG.CACHE_DIR else "XDG_CACHE_HOME"  # the one that decides
        print(
            f"alexnet-fast: compiled loops cannot be kept ({error}), and are compiled at every start. "
            f"Set {variable} to a folder that can be written.",
            file=sys.stderr,
        )
        return None
    return folder
