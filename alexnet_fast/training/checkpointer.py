"""Checkpoints of a run in training: the state of all ranks is gathered and passed to the checkpoint manager."""

from __future__ import annotations

from alexnet_fast.config.recipe import Recipe
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.network.model import AlexNet, whole_state
from alexnet_fast.runs.checkpoint import Checkpoint, classes_of, mean_of
from alexnet_fast.runs.checkpoint_manager import CheckpointManager
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.job import Loader
from alexnet_fast.training.metrics import Meter
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.telemetry import Silent, Telemetry
from alexnet_fast.training.train_step import TrainingStep
from alexnet_fast.training.trainer import Progress


class Checkpointer:
    """Gathers and saves the run as it stands.  All ranks call it together."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        *,
        mesh: Mesh,
        schedule: Schedule,
        model: AlexNet,
        optimizer: SGD,
        train_step: TrainingStep,
        loader: Loader,
        meter: Meter,
        progress: Progress,
        manager: CheckpointManager,
        telemetry: Telemetry | Silent,
    ) -> None:
        self.dataset, self.recipe, self.mesh, self.schedule = dataset, recipe, mesh, schedule
        self.model, self.optimizer, self.train_step = model, optimizer, train_step
        self.loader, self.meter, self.progress = loader, meter, progress
        self.manager, self.telemetry = manager, telemetry

    def is_due(self) -> bool:
        """Whether the recipe's time since the last checkpoint has passed."""
        return self.manager.minutes_since >= self.recipe.checkpoint_minutes

    def save(self) -> None:
        """Write a checkpoint; where the disk is full, report it and train on.

        Raises DivergedError, in every process, if a step diverged or weights are not finite.
        """
        self.train_step.drain()
        outcome = self.manager.save(self.state())
        step = self.progress.step
        for note in outcome.notes:
            self.telemetry.event(step, note)
        if outcome.diverged:
            raise DivergedError(outcome.diverged)
        if outcome.unsaved:
            self.telemetry.event(
                step,
                f"The checkpoint after step {step:,} could not be written ({outcome.unsaved}); "
                f"{self.manager.newest()}. Training continues. Make room in {self.manager.folder}.",
            )

    def state(self) -> Checkpoint | None:
        """The run as it stands; None in processes that need not write it."""
        inside = self.progress.step % self.schedule.steps_per_epoch != 0
        places = all_gather_object(self.mesh, self.loader.state_dict() if inside else None)
        totals = self.meter.run_totals()
        if not self.mesh.writes_state:
            return None
        return Checkpoint(
            recipe=self.recipe,
            classes=classes_of(self.dataset),
            dataset_fingerprint=self.dataset.fingerprint,
            image_options=self.dataset.image_options,
            mean=mean_of(self.dataset, self.recipe.mean),
            model=whole_state(self.model),
            optimizer=self.optimizer.whole_state(),
            step=self.progress.step,
            steps_per_epoch=self.schedule.steps_per_epoch,
            loaders=tuple(place for place in places if place is not None),
            scaler=self.train_step.state_dict(),
            error=self.progress.error,
            best_error=self.progress.best_error,
            totals=totals,
        )
