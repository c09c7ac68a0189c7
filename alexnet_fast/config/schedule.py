"""Learning rates and PCA color jitter as functions of the step alone, so that resuming needs no state."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_fast.config.recipe import Recipe


@dataclass(frozen=True)
class Rates:
    """Learning rates of one step; a tensor whose rate is 0 is not updated at all."""

    weights: float
    biases: float
    conv1_weights: float
    conv1_biases: float


@dataclass(frozen=True)
class Schedule:
    """A recipe, and how many steps one of its epochs has."""

    recipe: Recipe
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole run; its last epoch may be cut short."""
        return max(1, round(self.recipe.epochs * self.steps_per_epoch))

    @property
    def num_epochs(self) -> int:
        """Number of epochs that the run begins."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def position(self, epoch: float) -> float:
        """`epoch` of this run in epochs of the recipe's full length, in which its milestones are counted."""
        return epoch * self.recipe.schedule_epochs / self.recipe.epochs

    def rates(self, step: int) -> Rates:
        """Learning rates of the step with this number, counted from 0."""
        recipe = self.recipe
        epoch = step / self.steps_per_epoch
        position = self.position(epoch)
        factor = self.batch_factor(epoch)
        weights = factor * holding(recipe.lr_weights, recipe.lr_weights_milestones, position)
        biases = factor * holding(recipe.lr_biases, recipe.lr_biases_milestones, position)
        conv1_weights, conv1_biases = weights, biases
        if recipe.lr_conv1_from_epoch is not None and position >= recipe.lr_conv1_from_epoch:
            conv1_weights, conv1_biases = factor * recipe.lr_conv1, factor * recipe.lr_conv1_biases
        if recipe.freeze_conv1_epoch is not None and position >= recipe.freeze_conv1_epoch:
            conv1_weights, conv1_biases = 0.0, 0.0
        return Rates(weights, biases, conv1_weights, conv1_biases)

    def batch_factor(self, epoch: float) -> float:
        """Factor of the learning rates: batch_size / lr_base_batch_size, if above 1 reached by a linear warm-up."""
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
    """The value that holds at `position`: that of the last start before it."""
    return values[bisect.bisect_right(starts, position) - 1]
