"""Data sets that the recipe `demo` fits better than ImageNet's schedule.  Imports no torch: `shard` uses it too."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast.config.recipe_keys import RecipeKeys
from alexnet_fast.tools.messages import command

SMALL = 20_000
"""Training images below which ImageNet's schedule does not fit."""
LONG = 30_000
"""Training images in all (epochs × images) beyond which two busy cores take more than about a quarter of an hour."""
DEMO_EPOCHS = 12
"""Of the recipe `demo` on a few thousand photographs."""


def suits_demo(
    samples: int, *, epochs: float = RecipeKeys.epochs, schedule_epochs: float = RecipeKeys.schedule_epochs
) -> bool:
    """Whether the recipe `demo` fits `samples` training images on a CPU better than a recipe of these epochs.

    The defaults are those of `train` without --recipe.
    """
    return samples < SMALL and epochs * samples > LONG and schedule_epochs > 2 * DEMO_EPOCHS


def demo_command(folder: Path | str) -> str:
    """The command that trains on a shards folder by the recipe `demo`."""
    return command("train", folder, "--recipe", "demo", "--epochs", DEMO_EPOCHS)
