"""Numbers, names and commands as they stand in messages for people."""

from __future__ import annotations

import shlex


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, whose plural is one with an s where it is not given: 1 shard, 2,000 shards."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def command(*words: object) -> str:
    """A command of this program that can be copied into a shell as it is: `alexnet-fast info 'my shards'`.

    A word … stands for what the reader must fill in.
    """
    return " ".join(("`alexnet-fast", *(str(word) if word == "…" else shlex.quote(str(word)) for word in words))) + "`"


def few(names: list[str]) -> str:
    """The first three of a list of names, and how many more."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
