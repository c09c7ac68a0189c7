"""Data sets that the recipe `demo` fits better than ImageNet's schedule.  Imports no torch: `shard` uses it too."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast.config.recipe_keys import RecipeKeys
from alexnet_fast.tools.messages import command

SMALL = 20_000
"""Training images below which ImageNet's schedule does not fit."""
LONG = 30_000
"""Training images in all (epochs × images) beyond which two busy cores take more than about a quarter of an hour."""
FEW = 1_000
"""Training images below which ImageNet's schedule has too few steps of its large batches to learn much."""
DEMO_EPOCHS = 12
"""Of the recipe `demo` on a few thousand photographs."""
MOST_EPOCHS = 90
DEMO_IMAGES = 12_000
"""Training images in all (epochs × images) that the recipe `demo` sees of a smaller set, in up to 90 epochs."""


def takes_long(samples: int, epochs: float) -> bool:
    """Whether so many epochs are more than two busy cores compute while somebody waits."""
    return epochs * samples > LONG


def suits_demo(
    samples: int, *, epochs: float = RecipeKeys.epochs, schedule_epochs: float = RecipeKeys.schedule_epochs
) -> bool:
    """Whether the recipe `demo` fits `samples` training images on a CPU better than a recipe of these epochs.

    The defaults are those of `train` without --recipe.
    """
    fits_badly = takes_long(samples, epochs) or samples < FEW
    return samples < SMALL and fits_badly and schedule_epochs > 2 * DEMO_EPOCHS


def demo_command(folder: Path | str, samples: int) -> str:
    """The command that trains on a shards folder of so many training images by the recipe `demo`."""
    epochs = min(MOST_EPOCHS, max(DEMO_EPOCHS, -(-DEMO_IMAGES // samples)))
    return command("train", folder, "--recipe", "demo", "--epochs", epochs)
