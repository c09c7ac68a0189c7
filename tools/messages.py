"""Numbers, names and commands in messages for people."""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

PROGRAM = "alexnet-fast"
NEAR = 0.6
"""Of difflib's 0..1: from here on a word may be a slip of another."""
MOST_NAMED = 60
"""Valid names that a message lists: more, as of a data set's 1,000 classes, would hide the message."""
BAR = 14
"""Columns that a progress bar needs to be read, with what stands around it."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, whose plural adds an s where it is not given: 1 shard, 2,000 shards."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """In the unit that suits it: 27 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def command(*words: object) -> str:
    """A command of this program that can be copied into a shell as it is: `alexnet-fast info 'my shards'`.

    A word … stands for what the reader must fill in.
    """
    return f"`{' '.join([_program(), *(_typed(word) for word in words)])}`"


def _program() -> str:
    """As this program was called, where its name alone would not be found: .venv/bin/alexnet-fast."""
    called = Path(sys.argv[0])
    if called.name != PROGRAM or shutil.which(PROGRAM) is not None:
        return PROGRAM
    return shlex.quote(os.path.relpath(called))


def _typed(given: object) -> str:
    """A word as one types it; a folder -x, or a Path --x, which would be taken for an option, as ./-x."""
    word = str(given)
    if word == "…":
        return word
    if word.startswith("-") and (isinstance(given, Path) or not word.startswith("--")):
        word = f"./{word}"
    return shlex.quote(word) if word.isprintable() else _in_ansi_c(word)


def _in_ansi_c(word: str) -> str:
    """A word with line ends or bytes that are no UTF-8, which no message can show as they are: $'a\\nb\\xff'.

    Python's escapes of bytes are the shell's; the added quotation mark makes it choose single quotes.
    """
    return "$'" + repr(os.fsencode(word) + b'"')[2:-2] + "'"


def to_copy(*commands: str) -> str:
    """Commands, as `command` makes them, on lines of their own with nothing around them: ready to be copied."""
    return "\n".join(f"  {text.strip('`')}" for text in commands)


def terminal_columns(stream: TextIO | None = None) -> int | None:
    """Of the terminal that a stream (None: stderr) is; None where it is none."""
    try:
        return os.get_terminal_size((stream or sys.stderr).fileno()).columns or None
    except (OSError, ValueError, AttributeError):
        return None


def fitting(facts: Sequence[str], columns: int | None, taken: int) -> str:
    """The first of `facts`, which stand in the order of their importance, that fit whole into a line beside `taken`
    columns; ", " between.  columns: the terminal's; None: there is none, and everything fits.
    """
    shown = ""
    for fact in facts:
        longer = f"{shown}, {fact}" if shown else fact
        if columns is not None and taken + len(longer) >= columns:
            break
        shown = longer
    return shown


def few(names: list[str]) -> str:
    """The first three of a list of names, and how many more."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Half a sentence: the nearest valid names (several where they are equally near), or the first `MOST_NAMED`."""
    names = list(known)
    nearness = {name: difflib.SequenceMatcher(None, _alike(word), _alike(name)).ratio() for name in names}
    most = max(nearness.values())
    if most < NEAR:
        more = f", … ({len(names):,} in all)" if len(names) > MOST_NAMED else ""
        return f"choose from {', '.join(names[:MOST_NAMED])}{more}"
    near = [repr(name) for name in names if nearness[name] == most]
    return f"did you mean {' or '.join([', '.join(near[:-1]), near[-1]] if near[1:] else near)}?"


def _alike(word: str) -> str:
    """The same for EPOCHS and epochs, for batch-size and batch_size."""
    return word.lower().replace("-", "_")
