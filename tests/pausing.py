"""A command that waits in the middle of its work, however fast it is, for whoever sends it a signal."""

from __future__ import annotations

import importlib
import time
from functools import wraps
from pathlib import Path
from typing import Any

from alexnet_fast.inference import features


def small_parts() -> None:
    """`features` cuts its work into parts of 20 images, so that a few images make several."""
    features.PART_IMAGES = 20


def pause(module: str, name: str, call: int, mark: Path) -> None:
    """In the command's process: after the `call`-th call of a module's function or method, wait while `mark` exists.

    `mark` is made then.  A Ctrl-C raises KeyboardInterrupt there, where the command has not its own handler.
    """
    small_parts()
    *owner, last = name.split(".")
    place: Any = importlib.import_module(module)
    for part in owner:
        place = getattr(place, part)
    real, calls = getattr(place, last), 0

    @wraps(real)
    def paused(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        value = real(*arguments, **options)
        calls += 1
        if calls == call:
            mark.touch()
            while mark.exists():
                time.sleep(0.005)
        return value

    setattr(place, last, paused)
