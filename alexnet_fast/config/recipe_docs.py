"""Documentation of the recipe's keys and the sources of their values, extracted from `Recipe` and the recipe files."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal

ASSIGNMENT = re.compile(r"(?P<key>\w+)\s*=")


@dataclass(frozen=True)
class KeyDoc:
    """The docstring of a key."""

    explanation: str
    source: str
    """Where the default comes from; "" for the keys that describe the recipe itself."""


def docs_of(recipe: type) -> dict[str, KeyDoc]:
    """Key -> its docstring in the class, split where "Source:" begins."""
    body = ast.parse(textwrap.dedent(inspect.getsource(recipe))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, KeyDoc] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(statement.target, ast.Name) and isinstance(following.value, ast.Constant)
            explanation, _, source = str(following.value.value).partition("Source:")
            docs[statement.target.id] = KeyDoc(" ".join(explanation.split()), " ".join(source.split()).rstrip("."))
    return docs


def comments_of(toml: str) -> dict[str, str]:
    """Key -> the comment lines directly above it and the comment behind its value, as one text; "" without any.

    For files with one key on a line and no "#" inside a value, such as the recipes of this project.
    """
    found: dict[str, str] = {}
    above: list[str] = []
    for line in toml.splitlines():
        assignment = ASSIGNMENT.match(line)
        if line.startswith("#"):
            above.append(line.lstrip("# "))
        elif assignment is not None:
            found[assignment["key"]] = " ".join([*above, line.partition("#")[2].strip()]).strip()
            above = []
        else:
            above = []
    return found


def types_of(recipe: type) -> dict[str, tuple[type, ...]]:
    """Key -> the types that its values may have."""
    hints = typing.get_type_hints(recipe)
    result: dict[str, tuple[type, ...]] = {}
    for field in fields(recipe):
        hint = hints[field.name]
        origin = typing.get_origin(hint)
        if origin is Literal:
            result[field.name] = (type(typing.get_args(hint)[0]),)
        elif origin is types.UnionType or origin is typing.Union:
            result[field.name] = typing.get_args(hint)
        else:
            result[field.name] = (origin or hint,)
    return result


def choices_of(recipe: type) -> dict[str, tuple[Any, ...]]:
    """Key -> its possible values, for keys that have a few."""
    hints = typing.get_type_hints(recipe)
    return {key: typing.get_args(hint) for key, hint in hints.items() if typing.get_origin(hint) is Literal}
