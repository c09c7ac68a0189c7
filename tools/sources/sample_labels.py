"""What a label says: numbers stay numbers, however they are written; names stay names."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.tar_writer import MAX_LABEL

NUMBER_FIELDS = ("label", "cls", "class_id", "class", "target", "category_id")
"""Where a sample's JSON may say its class, as a number or as a name."""
NAME_FIELDS = ("class_name", "label_name", "category", "category_name", "wnid", "synset")
"""Where it may say the class's name."""

_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
_MISSING = frozenset(("", "nan", "null"))

WNID = re.compile(r"n\d{8}")
LONGEST_NAME = 200
"""Characters; what is longer is a text, not a class."""


class Label(NamedTuple):
    """A class's number, its name, or both."""

    number: int | None = None
    name: str | None = None


class LabelError(UserError):
    """A label that is neither a number nor a name."""


UNLABELED = Label()
"""Of an image without a label; numbers below zero say it, as does NaN."""


def label_of(value: Any) -> Label:
    """A label's value as JSON, a table or a text has it; LabelError where it is none, such as 3.5 or a list of two."""
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise LabelError(f"the label {shown(value)} is a list of {len(value)}, not one class")
        return label_of(value[0])
    if value is None:
        return UNLABELED
    if isinstance(value, bool | int):
        return numbered(int(value))
    if isinstance(value, float):
        if math.isnan(value):
            return UNLABELED
        if not value.is_integer():
            raise LabelError(f"the label {value} is no whole number")
        return numbered(int(value))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if not isinstance(value, str):
        raise LabelError(f"the label {shown(value)} is neither a number nor a name")
    return label_of_text(value)


def label_of_text(value: str) -> Label:
    # JSON can spell halves of characters, which have no bytes.
    word = value.encode("utf-8", "backslashreplace").decode().removeprefix("\ufeff").strip()
    if word.lower() in _MISSING:
        return UNLABELED
    if _NUMBER.fullmatch(word):
        digits = word.partition(".")[0]
        if len(digits.lstrip("+-0")) > len(str(MAX_LABEL)):  # by its length: Python reads no number of 5,000 digits
            raise LabelError(f"the label {shown(word)} is too large; labels may go up to {MAX_LABEL:,}")
        return numbered(int(digits))
    if re.fullmatch(r"\[.*\]", word):
        try:
            return label_of(json.loads(word))
        except (ValueError, RecursionError):
            pass
    if re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", word, re.IGNORECASE):
        raise LabelError(f"the label {shown(word)} is no whole number")
    if len(word) > LONGEST_NAME:
        raise LabelError(f"the label {shown(word)} is too long for a class's name")
    return Label(None, word)


def numbered(number: int) -> Label:
    if number < 0:
        return UNLABELED
    if number > MAX_LABEL:
        raise LabelError(f"the label {number:,} is too large; labels may go up to {MAX_LABEL:,}")
    return Label(number)


def label_of_json(fields: Any) -> Label:
    """What a sample's JSON says of its class; LabelError where it says two things."""
    if not isinstance(fields, dict):
        return UNLABELED
    label = UNLABELED
    for key in (*NUMBER_FIELDS, *NAME_FIELDS):
        if key in fields:
            label = merged(label, label_of_field(key, fields[key]))
    return label


def label_of_field(key: str, value: Any) -> Label:
    """A field of names may hold a name that is a number, such as "7"; it counts only where nothing else is said."""
    label = label_of(value)
    if key in NAME_FIELDS and label.number is not None:
        return UNLABELED
    return label


def merged(one: Label, two: Label) -> Label:
    """Both labels of an image in one; LabelError where they disagree."""
    for mine, other in zip(one, two, strict=True):
        if mine is not None and other is not None and mine != other:
            raise LabelError(f"two labels disagree: {shown(mine)} and {shown(other)}")
    return Label(
        one.number if one.number is not None else two.number,
        one.name if one.name is not None else two.name,
    )


def shown(value: Any) -> str:
    """The start of a value, for a message."""
    words = str(value)
    return words if len(words) <= 40 else f"{words[:40]}…"
