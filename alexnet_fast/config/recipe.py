"""`Recipe`: all settings of a training run in a frozen dataclass; recipe files are TOML with the keys that differ from
it.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alexnet_fast.config.recipe_checks import check_recipe, parse_norms
from alexnet_fast.config.recipe_docs import KeyDoc, comments_of, docs_of, types_of
from alexnet_fast.config.recipe_keys import RecipeKeys
from alexnet_fast.config.recipe_values import checked_value, parse_value, toml_value
from alexnet_fast.network.architecture import NETS, POOLINGS, Architecture, small
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import did_you_mean
from alexnet_fast.tools.storage.filesystem import open_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"
"""The recipes that come with the program."""


@dataclass(frozen=True)
class Recipe(RecipeKeys):
    """A training run whose keys are checked: raises UsageError, naming key and value, for what cannot be trained."""

    def __post_init__(self) -> None:
        check_recipe(self)

    def architecture(self, num_classes: int) -> Architecture:
        """The network for `num_classes` classes, with what the recipe changes of it."""
        changes: dict[str, Any] = {"dropout": self.dropout, "dropout_inverted": self.dropout_inverted}
        if self.norms != "net":
            changes["norms"] = parse_norms(self.norms)
        if self.pooling != "net":
            changes |= POOLINGS[self.pooling]
        if self.activation != "net":
            changes["activation"] = self.activation
        whole = replace(NETS[self.network], num_classes=num_classes, all_ties=self.exact_2012, **changes)
        if self.width_divisor == 1:
            return whole
        return small(whole, self.width_divisor, whole.image_size, num_classes)

    def to_toml(self, *, named: bool = False, sources: Mapping[str, str] | None = None) -> str:
        """All keys, each under its explanation and, where `sources` has it, its source; reads back as the same recipe.

        `named`: with the recipe's name.
        """
        docs = key_docs()
        lines: list[str] = []
        for key, value in asdict(self).items():
            if key == "name" and not named:
                continue
            lines += [f"# {line}" for line in textwrap.wrap(docs[key].explanation, 110)]
            if sources is not None and key in sources:
                lines += [f"# {line}" for line in textwrap.wrap(f"Source: {sources[key]}", 110)]
            lines.append(f"{key} = {toml_value('none' if value is None else value)}")
            lines.append("")
        return "\n".join(lines)


def rounded_epochs(epochs: float) -> str:
    """1, 1.5, 0.02, 0.003"""
    return f"{round(epochs, 2):.12g}" if epochs >= 0.01 else f"{epochs:.1g}"


def counted_epochs(epochs: float) -> str:
    """1 epoch, 1.5 epochs, 0.02 epochs"""
    shown = rounded_epochs(epochs)
    return f"{shown} epoch{'s'[: shown != '1']}"


def recipe_names() -> list[str]:
    """Of the recipes that come with the program."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of the program's by name, or a TOML file of the user's; `overrides` are "key=value".

    What a file skips is as in `Recipe`.  Raises UsageError with the nearest valid name.
    """
    file = Path(name_or_file)
    if file.suffix != ".toml":
        file = FOLDER / f"{name_or_file}.toml"
        if not file.is_file():
            raise UsageError(
                f"recipe {name_or_file!r} is neither one of the program's nor a .toml file: "
                f"{did_you_mean(name_or_file, recipe_names())}"
            )
    recipe = recipe_from({"name": file.stem} | recipe_content(file), f"recipe {file.name}")
    return override(recipe, overrides)


def recipe(name_or_file: str | Path = "2013", **changes: Any) -> Recipe:
    """One of the program's recipes, or a .toml file, with some of its keys changed.

    Raises UsageError with the nearest valid name for a recipe or key that does not exist, and for a value that cannot
    be.

    >>> from alexnet_fast import recipe
    >>> recipe("2013", epochs=5, batch_size=64).batch_size
    64
    """
    found = load_recipe(str(name_or_file))
    values = {key: checked_value(key, value, key_types(), f"recipe({key}=…)") for key, value in changes.items()}
    return replace(found, **values)


def recipe_content(file: Path) -> dict[str, Any]:
    """What a recipe's file says, unchecked; UsageError where it cannot be read."""
    try:
        with open_file(file) as opened:
            content: dict[str, Any] = tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"recipe {file}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {file} is no TOML: {error}") from error
    return content


def recipe_from(content: dict[str, Any], where: str) -> Recipe:
    """A recipe out of keys and values, as a TOML file or a checkpoint holds them."""
    values = {key: checked_value(key, value, key_types(), where) for key, value in content.items()}
    try:
        return Recipe(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with "key=value" settings laid over it; values as TOML writes them, strings without quotes too."""
    values: dict[str, Any] = {}
    known = key_types()
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals:
            raise UsageError(f"--set {setting}: write it as key=value, such as --set batch_size=64")
        if key == "name":
            raise UsageError(f"--set {setting}: a recipe's name is that of its file")
        values[key] = checked_value(key, parse_value(key, text.strip(), known), known, f"--set {setting}")
    try:
        return replace(recipe, **values)
    except UsageError as error:
        raise UsageError(f"{' '.join(f'--set {setting}' for setting in settings)}: {error}") from error


def key_types() -> dict[str, tuple[type, ...]]:
    """Key -> the types that its values may have."""
    return types_of(Recipe)


def key_docs() -> dict[str, KeyDoc]:
    """Key -> its explanation, and the source of its default."""
    return docs_of(RecipeKeys)


def key_sources(file: Path) -> dict[str, str]:
    """Key -> where the value that a recipe file gives it comes from; for keys that it omits, the default's source.

    A key that the file gives without a comment has none.
    """
    stated = comments_of(file.read_text(encoding="utf-8"))
    defaults = {key: doc.source for key, doc in key_docs().items() if key not in stated}
    return {key: source for key, source in (defaults | stated).items() if source}
