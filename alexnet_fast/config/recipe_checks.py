"""Which recipes cannot be trained; every refusal names the key, its value and what it may be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alexnet_fast.config.precision import DTYPES
from alexnet_fast.config.recipe_docs import choices_of, types_of
from alexnet_fast.network.architecture import LAYERS, NETS, NORMS
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, did_you_mean

if TYPE_CHECKING:
    from alexnet_fast.config.recipe_keys import RecipeKeys

LEAST_EPOCHS, MOST_EPOCHS = 1e-6, 1e6
"""Less is no step of any data set, more no number of steps that a file's name can hold."""
MOST_RATE = 1e6
"""Of learning rates and weight decay: no run survives a thousandth of it, and float32 holds what becomes of it."""
MAX_PCA_JITTER = 10.0
"""A hundred times that of 2012."""


def parse_norms(text: str) -> tuple[str, ...]:
    """ "conv1,conv2" -> the norms, in the network's order; "none" -> none.  Raises UsageError for an unknown one."""
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in NORMS]
    if unknown:
        raise UsageError(f'norms has {unknown[0]!r}: give "net", "none", or some of {", ".join(NORMS)}')
    return tuple(norm for norm in NORMS if norm in names)


def check_recipe(recipe: RecipeKeys) -> None:
    """Raise UsageError for a combination that cannot be trained, with the key and the value."""
    if recipe.name in ("", ".", "..") or "/" in recipe.name or not recipe.name.isprintable():
        raise UsageError(f"name is {recipe.name!r}: give one that a folder can have")
    if recipe.network not in NETS:
        raise UsageError(f"network is {recipe.network!r}: {did_you_mean(recipe.network, NETS)}")
    kind: type = type(recipe)
    for key, choices in choices_of(kind).items():
        *others, last = (str(choice) for choice in choices)
        require(recipe, key, getattr(recipe, key) in choices, f"{', '.join(others)} or {last}")
    for key, kinds in types_of(kind).items():
        value = getattr(recipe, key)
        if float in kinds and value is not None:
            require(recipe, key, math.isfinite(value), "a finite number")
        if tuple in kinds:
            require(recipe, key, all(math.isfinite(item) for item in value), "a list of finite numbers")
    check_numbers(recipe)
    if recipe.norms != "net":
        parse_norms(recipe.norms)
    check_freeze(recipe)
    check_steps(recipe, "lr_weights", "lr_weights_milestones")
    check_steps(recipe, "lr_biases", "lr_biases_milestones")
    check_precision(recipe)


def check_freeze(recipe: RecipeKeys) -> None:
    """Frozen layers exist, some layer is left to train, and what is frozen was trained before."""
    for layer in recipe.frozen:
        if layer not in LAYERS:
            raise UsageError(f"freeze is {recipe.freeze!r}: there is no layer {layer!r}; {did_you_mean(layer, LAYERS)}")
    if "fc8" in recipe.frozen:
        raise UsageError(f"freeze is {recipe.freeze!r}: fc8 distinguishes the classes, it has to be trained")
    if recipe.frozen and not recipe.init:
        raise UsageError(f"freeze is {recipe.freeze!r}: layers that never learned anything; give --init CHECKPOINT too")


def check_numbers(recipe: RecipeKeys) -> None:
    """Raise UsageError for a number that is out of its range."""
    for key in ("epochs", "schedule_epochs", "checkpoint_minutes"):
        require(recipe, key, getattr(recipe, key) > 0, "more than 0")
    for key in ("epochs", "schedule_epochs"):
        require(recipe, key, LEAST_EPOCHS <= getattr(recipe, key) <= MOST_EPOCHS, "from 0.000001 to 1,000,000")
    for key in ("batch_size", "lr_base_batch_size", "keep_checkpoints", "shuffle_buffer"):
        require(recipe, key, getattr(recipe, key) >= 1, "1 or more")
    for key in ("seed", "pca_jitter", "weight_decay", "warmup_epochs", "lr_conv1", "lr_conv1_biases"):
        require(recipe, key, getattr(recipe, key) >= 0, "0 or more")
    for key in ("lr_conv1_from_epoch", "freeze_conv1_epoch", "pca_jitter_off_epoch"):
        require(recipe, key, getattr(recipe, key) is None or getattr(recipe, key) >= 0, '0 or more, or "none"')
    require(
        recipe,
        "pca_jitter",
        recipe.pca_jitter <= MAX_PCA_JITTER,
        f"at most {MAX_PCA_JITTER:g}: more leaves nothing of the image",
    )
    for key in ("weight_decay", "lr_conv1", "lr_conv1_biases"):
        require(recipe, key, getattr(recipe, key) <= MOST_RATE, f"at most {MOST_RATE:,.0f}")
    for key in ("momentum", "dropout"):
        require(recipe, key, 0 <= getattr(recipe, key) < 1, "from 0 to below 1")
    require(recipe, "width_divisor", recipe.width_divisor in (1, 2, 4, 8, 16), "1, 2, 4, 8 or 16")


def check_precision(recipe: RecipeKeys) -> None:
    """Raise UsageError for an unknown precision, and for what does not go together with exact_2012."""
    if recipe.precision not in ("auto", *DTYPES):
        raise UsageError(f"precision is {recipe.precision!r}: choose auto, {', '.join(DTYPES)}")
    if recipe.exact_2012:
        require(recipe, "precision", recipe.precision in ("auto", "fp32"), "fp32 or auto with exact_2012")


def check_steps(recipe: RecipeKeys, rates_key: str, epochs_key: str) -> None:
    """Raise UsageError where learning rates and the epochs from which they hold do not go together."""
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


def require(recipe: RecipeKeys, key: str, condition: bool, requirement: str) -> None:
    """Raise UsageError that says what the key's value must be, unless the condition holds."""
    value = getattr(recipe, key)
    if not condition:
        raise UsageError(f"{key} is {list(value) if isinstance(value, tuple) else value!r}: it must be {requirement}")
