"""The flags of `train` that change a recipe: each stands for one or more --set, and is recorded like them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_fast.tools.errors import UsageError

if TYPE_CHECKING:
    from alexnet_fast.config.recipe import Recipe

SCALED = ("lr_weights", "lr_biases", "lr_conv1", "lr_conv1_biases")
"""Keys of learning rates, those of weights first."""


def with_flags(
    recipe: Recipe,
    *,
    epochs: float | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    val_split: str | None,
    init: Path | None = None,
    freeze: str | None = None,
) -> Recipe:
    """The recipe as the flags change it.  UsageError for a value that cannot be."""
    from alexnet_fast.config.recipe import override

    given: dict[str, object] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "val_split": val_split,
        "final_split": val_split,
    }
    given |= {"init": None if init is None else init.absolute(), "freeze": freeze}
    settings = [f"{key}={value}" for key, value in given.items() if value is not None]
    if lr is not None:
        settings += scaled_rates(recipe, lr)
    return override(recipe, settings) if settings else recipe


def scaled_rates(recipe: Recipe, lr: float) -> list[str]:
    """Settings that make `lr` the weights' first learning rate, and scale all others and their schedule with it."""
    first = recipe.lr_weights[0]
    if not lr > 0 or first <= 0:
        raise UsageError(f"--lr {lr:g}: give a learning rate above 0 (recipe {recipe.name} has {first:g})")
    settings = []
    for key in SCALED:
        value = getattr(recipe, key, None)
        if value is not None:
            scaled = [scale(rate, lr, first) for rate in (value if isinstance(value, tuple) else (value,))]
            settings.append(f"{key}={scaled if isinstance(value, tuple) else scaled[0]}")
    return settings


def scale(rate: float, lr: float, first: float) -> float:
    """To 12 digits: 0.02 · 0.1 / 0.01 is 0.2, not 0.20000000000000004."""
    return float(f"{rate * lr / first:.12g}")
