"""Learning rates and PCA color jitter as a function of the step alone, so that resuming needs no state."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_fast.config.recipe import Recipe


@dataclass(frozen=True)
class Rates:
    """Learning rates ε of one step."""

    weights: float
    biases: float
    conv1: float
    """Of conv1's weights."""


@dataclass(frozen=True)
class Schedule:
    """A recipe, and how many steps one of its epochs has."""

    recipe: Recipe
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Of the whole run; the last epoch may be cut short."""
        return max(1, round(self.recipe.epochs * self.steps_per_epoch))

    @property
    def num_epochs(self) -> int:
        """Begun in the run."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def position(self, epoch: float) -> float:
        """Where `epoch` of this run is, in epochs of the recipe's full length."""
        return epoch * self.recipe.schedule_epochs / self.recipe.epochs

    def rates(self, step: int) -> Rates:
        """For the step with this number, counted from 0."""
        recipe = self.recipe
        epoch = step / self.steps_per_epoch
        position = self.position(epoch)
        factor = self.batch_factor(epoch)
        weights = factor * holding(recipe.lr_weights, recipe.lr_weights_milestones, position)
        biases = factor * holding(recipe.lr_biases, recipe.lr_biases_milestones, position)
        conv1 = weights
        if recipe.lr_conv1_from_epoch is not None and position >= recipe.lr_conv1_from_epoch:
            conv1 = factor * recipe.lr_conv1
        if recipe.freeze_conv1_epoch is not None and position >= recipe.freeze_conv1_epoch:
            conv1 = 0.0
        return Rates(weights, biases, conv1)

    def batch_factor(self, epoch: float) -> float:
        """What the rates are multiplied by: batch_size / lr_base_batch_size, after the warm-up if that is above 1."""
        goal = self.recipe.batch_size / self.recipe.lr_base_batch_size
        if goal <= 1 or self.recipe.warmup_epochs == 0:
            return goal
        return 1 + (goal - 1) * min(1.0, self.position(epoch) / self.recipe.warmup_epochs)

    def pca_jitter(self, epoch: int) -> bool:
        """Whether the images of this epoch get PCA color jitter."""
        recipe = self.recipe
        return recipe.pca_jitter > 0 and (
            recipe.pca_jitter_off_epoch is None or self.position(epoch) < recipe.pca_jitter_off_epoch
        )


def holding(values: Sequence[float], starts: Sequence[float], position: float) -> float:
    """The value whose time it is."""
    return values[bisect.bisect_right(starts, position) - 1]
