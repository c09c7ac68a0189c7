"""Numbers, names and commands as they stand in messages for people."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "alexnet-fast"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, whose plural is one with an s where it is not given: 1 shard, 2,000 shards."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def command(*words: object) -> str:
    """A command of this program that can be copied into a shell as it is: `alexnet-fast info 'my shards'`.

    A word … stands for what the reader must fill in.
    """
    return f"`{' '.join([_program(), *(_typed(str(word)) for word in words)])}`"


def _program() -> str:
    """As this program was called, where its name alone would not be found: .venv/bin/alexnet-fast."""
    called = Path(sys.argv[0])
    if called.name != PROGRAM or shutil.which(PROGRAM) is not None:
        return PROGRAM
    return shlex.quote(os.path.relpath(called))


def _typed(word: str) -> str:
    """A word as one types it; a folder -x, which would be taken for an option, as ./-x."""
    if word == "…":
        return word
    return shlex.quote(f"./{word}" if word.startswith("-") and not word.startswith("--") else word)


def few(names: list[str]) -> str:
    """The first three of a list of names, and how many more."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
