"""Every choice of a training run, in one frozen dataclass; recipes are TOML files that say what differs from it."""

from __future__ import annotations

import ast
import inspect
import json
import math
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from alexnet_fast.config.precision import DTYPES
from alexnet_fast.network.model import NETS, Architecture, small
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, did_you_mean
from alexnet_fast.tools.numbers import is_number
from alexnet_fast.tools.storage.filesystem import open_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"
"""The recipes that come with the program."""
LEAST_EPOCHS, MOST_EPOCHS = 1e-6, 1e6
"""Less is no step of any data set, more no number of steps that a file's name can hold."""
MOST_RATE = 1e6
"""Of learning rates and weight decay: no run survives a thousandth of it, and float32 holds what becomes of it."""
MAX_PCA_JITTER = 10.0
"""A hundred times that of 2012."""


@dataclass(frozen=True)
class Recipe:
    """A run.  The defaults are those of net 167, trained without a human hand (the authors' program and notebook)."""

    name: str = "2013"
    """What it is called: as its file, unless the file says otherwise, as a run's recipe.toml does."""
    description: str = ""
    """One line: what it is."""
    source: str = ""
    """Where its numbers come from."""
    expected: str = ""
    """Error to expect on ImageNet, and from where that is known."""
    network: str = "167"
    """Number of the authors' net: 145, 167, 145-half, 147, 148, 150; or paper, tanh."""
    width_divisor: int = 1
    """Every layer's width is divided by it; 1 is the real network, more is for trying."""
    epochs: float = 90.0
    """Length of the run, in epochs."""
    schedule_epochs: float = 90.0
    """The length in which all epochs below are counted: a run of other length has them in proportion."""
    batch_size: int = 128
    """Images in a step, all processes together."""
    seed: int = 0
    """Of initialization, order, crops, mirrors, colors and dropout."""
    lr_weights: tuple[float, ...] = (0.01, 0.001, 0.0001, 0.00001)
    """Learning rates ε of the weights, one after the other, for `lr_base_batch_size` images in a step."""
    lr_weights_milestones: tuple[float, ...] = (0.0, 22.5, 45.0, 67.5)
    """Epoch from which each of them holds."""
    lr_biases: tuple[float, ...] = (0.02, 0.002)
    """Learning rates of the biases, which have no decay."""
    lr_biases_milestones: tuple[float, ...] = (0.0, 45.0)
    """Epoch from which each of them holds."""
    lr_base_batch_size: int = 128
    """Batch for which the rates are meant: they are multiplied by batch_size / lr_base_batch_size."""
    warmup_epochs: float = 5.0
    """Epochs in which rates that are multiplied by more than 1 rise from what they are to that."""
    lr_conv1: float = 0.00001
    """Learning rate of conv1's weights from `lr_conv1_from_epoch` on."""
    lr_conv1_from_epoch: float | None = None
    """Epoch from which conv1's weights learn at their own rate; "none": never."""
    freeze_conv1_epoch: float | None = 73.0
    """Epoch from which conv1's weights stay as they are; "none": never."""
    momentum: float = 0.9
    """Share of the last change that is kept."""
    weight_decay: float = 0.0005
    """ε times this times the weight is taken from it in each step; biases have none."""
    mean: Literal["image", "rgb"] = "image"
    """What is subtracted from the pixels: the mean image's center, or the mean color."""
    pca_jitter: float = 0.1
    """Strength of the PCA color jitter, in standard deviations along the eigenvectors of the RGB covariance."""
    pca_jitter_divisor: bool = True
    """Whether pixels are divided by 1 + pca_jitter while the jitter is on."""
    pca_jitter_off_epoch: float | None = 63.0
    """Epoch from which there is no PCA color jitter; "none": to the end."""
    shuffle_buffer: int = 8192
    """Samples out of which each process draws the next, beside the shuffle of the shards."""
    precision: str = "auto"
    """bf16, fp16, fp32, or auto: what the device multiplies fastest."""
    cuda_graph: bool = True
    """On one GPU: launch each step as one recording (a CUDA graph) instead of its hundreds of kernels one by one."""
    final_views: Literal[1, 10] = 10
    """Views of each image in the evaluation at the end; after each epoch it is the center view."""
    checkpoint_minutes: float = 15.0
    """Minutes between checkpoints, beside the one after each epoch."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept, beside the best."""

    def __post_init__(self) -> None:
        check_recipe(self)

    def architecture(self, num_classes: int) -> Architecture:
        """The network, for so many classes."""
        whole = replace(NETS[self.network], num_classes=num_classes)
        if self.width_divisor == 1:
            return whole
        return small(whole, self.width_divisor, whole.image_size, num_classes)

    def to_toml(self, *, named: bool = False) -> str:
        """All keys, each under its explanation; reads back as the same recipe.  `named`: the name too."""
        docs = key_docs()
        lines: list[str] = []
        for key, value in asdict(self).items():
            if key == "name" and not named:
                continue
            lines += [f"# {line}" for line in textwrap.wrap(docs[key], 110)]
            lines.append(f"{key} = {toml_value('none' if value is None else value)}")
            lines.append("")
        return "\n".join(lines)


def counted_epochs(epochs: float) -> str:
    """1 epoch, 1.5 epochs"""
    return f"{epochs:g} epoch{'s'[: epochs != 1]}"


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for a combination that cannot be trained, with the key and the value."""
    if recipe.name in ("", ".", "..") or "/" in recipe.name or not recipe.name.isprintable():
        raise UsageError(f"name is {recipe.name!r}: give one that a folder can have")
    if recipe.network not in NETS:
        raise UsageError(f"network is {recipe.network!r}: {did_you_mean(recipe.network, NETS)}")
    if recipe.precision not in ("auto", *DTYPES):
        raise UsageError(f"precision is {recipe.precision!r}: choose auto, {', '.join(DTYPES)}")
    for key, kinds in key_types().items():
        value = getattr(recipe, key)
        if float in kinds and value is not None:
            require(recipe, key, math.isfinite(value), "a finite number")
        if tuple in kinds:
            require(recipe, key, all(math.isfinite(item) for item in value), "a list of finite numbers")
    for key in ("epochs", "schedule_epochs", "checkpoint_minutes"):
        require(recipe, key, getattr(recipe, key) > 0, "more than 0")
    for key in ("epochs", "schedule_epochs"):
        require(recipe, key, LEAST_EPOCHS <= getattr(recipe, key) <= MOST_EPOCHS, "from 0.000001 to 1,000,000")
    for key in ("batch_size", "lr_base_batch_size", "keep_checkpoints", "shuffle_buffer"):
        require(recipe, key, getattr(recipe, key) >= 1, "1 or more")
    for key in ("seed", "pca_jitter", "weight_decay", "warmup_epochs", "lr_conv1"):
        require(recipe, key, getattr(recipe, key) >= 0, "0 or more")
    for key in ("lr_conv1_from_epoch", "freeze_conv1_epoch", "pca_jitter_off_epoch"):
        require(recipe, key, getattr(recipe, key) is None or getattr(recipe, key) >= 0, '0 or more, or "none"')
    require(
        recipe,
        "pca_jitter",
        recipe.pca_jitter <= MAX_PCA_JITTER,
        f"at most {MAX_PCA_JITTER:g}: more leaves nothing of the image",
    )
    for key in ("weight_decay", "lr_conv1"):
        require(recipe, key, getattr(recipe, key) <= MOST_RATE, f"at most {MOST_RATE:,.0f}")
    require(recipe, "momentum", 0 <= recipe.momentum < 1, "from 0 to below 1")
    require(recipe, "mean", recipe.mean in ("image", "rgb"), "image or rgb")
    require(recipe, "final_views", recipe.final_views in (1, 10), "1 or 10")
    require(recipe, "width_divisor", recipe.width_divisor in (1, 2, 4, 8, 16), "1, 2, 4, 8 or 16")
    check_steps(recipe, "lr_weights", "lr_weights_milestones")
    check_steps(recipe, "lr_biases", "lr_biases_milestones")


def check_steps(recipe: Recipe, rates_key: str, epochs_key: str) -> None:
    """Rates and the epochs from which they hold must go together."""
    rates, epochs = getattr(recipe, rates_key), getattr(recipe, epochs_key)
    if len(rates) != len(epochs) or not rates:
        raise UsageError(
            f"{rates_key} has {counted(len(rates), 'rate')} and {epochs_key} {counted(len(epochs), 'epoch')}: "
            "give one for each"
        )
    require(recipe, rates_key, all(0 <= rate <= MOST_RATE for rate in rates), f"rates of 0 to {MOST_RATE:,.0f}")
    if epochs[0] != 0 or list(epochs) != sorted(set(epochs)):
        raise UsageError(f"{epochs_key} is {list(epochs)}: begin with 0 and let them rise")
    if epochs[-1] >= recipe.schedule_epochs:
        raise UsageError(
            f"{epochs_key} is {list(epochs)}: the last is not reached in {recipe.schedule_epochs:g} epochs "
            "(schedule_epochs)"
        )


def require(recipe: Recipe, key: str, condition: bool, words: str) -> None:
    """Raise UsageError unless the condition holds."""
    value = getattr(recipe, key)
    if not condition:
        raise UsageError(f"{key} is {list(value) if isinstance(value, tuple) else value!r}: it must be {words}")


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
    values = {key: checked_value(key, value, where) for key, value in content.items()}
    try:
        return Recipe(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with "key=value" settings laid over it; values as TOML writes them, strings without quotes too."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals:
            raise UsageError(f"--set {setting}: write it as key=value, such as --set batch_size=64")
        if key == "name":
            raise UsageError(f"--set {setting}: a recipe's name is that of its file")
        values[key] = checked_value(key, parse_value(key, text.strip()), f"--set {setting}")
    try:
        return replace(recipe, **values)
    except UsageError as error:
        raise UsageError(f"{' '.join(f'--set {setting}' for setting in settings)}: {error}") from error


def parse_value(key: str, text: str) -> Any:
    """TOML's value of the text; the text itself where it is none, or a number and the key takes words."""
    kinds = key_types().get(key, ())
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if str in kinds and is_number(value) else value


def checked_value(key: str, value: Any, where: str) -> Any:
    """The value in the key's type, "none" being None where there may be none.

    UsageError if there is no such key or the value is of another type.
    """
    known = key_types()
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


def key_types() -> dict[str, tuple[type, ...]]:
    """Key -> the types that its values may have."""
    hints = typing.get_type_hints(Recipe)
    result: dict[str, tuple[type, ...]] = {}
    for field in fields(Recipe):
        hint = hints[field.name]
        origin = typing.get_origin(hint)
        if origin is Literal:
            result[field.name] = (type(typing.get_args(hint)[0]),)
        elif origin is types.UnionType or origin is typing.Union:
            result[field.name] = typing.get_args(hint)
        else:
            result[field.name] = (origin or hint,)
    return result


def key_docs() -> dict[str, str]:
    """Key -> what stands under it in `Recipe`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(Recipe))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(statement.target, ast.Name) and isinstance(following.value, ast.Constant)
            docs[statement.target.id] = str(following.value.value)
    return docs


def toml_value(value: Any) -> str:
    """As TOML writes it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
