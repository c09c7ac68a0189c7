"""Where libraries keep their caches, on machines where the usual place cannot be written: read-only roots, no home."""

from __future__ import annotations

import os
from pathlib import Path

PLACES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "MPLCONFIGDIR": ("matplotlib", (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config"))),
    "TRITON_CACHE_DIR": ("triton", (("TRITON_HOME", ".triton"),)),
}
"""Variable that moves a library's cache -> its folder's name; the places where the library has it otherwise, each by
the variable that names it and by its name in the user's home.  (Compiled loops: see `compilation`.)"""


def place_caches(fallback: Path) -> None:
    """Send the caches of matplotlib and Triton into `fallback` where their own places cannot be written.

    Without a writable cache matplotlib cannot be imported and Triton compiles nothing.  A place that the user chose
    stays.  To be called before these libraries are imported; started processes inherit it.  Nothing is made here.
    """
    for variable, (name, homes) in PLACES.items():
        if not os.environ.get(variable) and not all(is_writable(home_of(*home)) for home in homes):
            os.environ[variable] = str(fallback.absolute() / name)


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
