"""What counts as a number in files that people and other programs write."""

from __future__ import annotations

from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value out of JSON or TOML is a number: an int or a float, NaN and infinity too, but no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)
