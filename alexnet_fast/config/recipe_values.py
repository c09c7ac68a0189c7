"""Values of recipe keys between TOML, the command line and Python: parsed, checked for their type, written."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Mapping
from typing import Any

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import did_you_mean
from alexnet_fast.tools.numbers import is_number

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KeyTypes = Mapping[str, tuple[type, ...]]
"""Key -> the types that its values may have."""


def parse_value(key: str, text: str, known: KeyTypes) -> Any:
    """TOML's value of the text; the text itself where it is none, or where it is a number and the key takes strings."""
    kinds = known.get(key, ())
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if str in kinds and is_number(value) else value


def checked_value(key: str, value: Any, known: KeyTypes, where: str) -> Any:
    """The value in the key's type, "none" being None where there may be none.

    UsageError if there is no such key or the value is of another type.
    """
    if key not in known:
        raise UsageError(f"{where}: there is no key {key!r}; {did_you_mean(key, known)}")
    kinds = known[key]
    if value == "none" and types.NoneType in kinds:
        return None
    if tuple in kinds and isinstance(value, list | tuple) and all(is_number(item) for item in value):
        return tuple(to_float(item) for item in value)
    if float in kinds and is_number(value):
        return to_float(value)
    if type(value) in kinds:
        return value
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    wanted = " or ".join(names.get(kind, "a list of numbers") for kind in kinds if kind is not types.NoneType)
    raise UsageError(f"{where}: {key} is {value!r}; it must be {wanted}")


def to_float(number: float) -> float:
    """Infinite where a whole number is larger than any float, as TOML has it of 1e400."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def toml_value(value: Any) -> str:
    """As TOML writes it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
