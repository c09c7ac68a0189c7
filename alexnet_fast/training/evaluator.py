"""Evaluations of a run: the center view after each epoch, the recipe's views at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.distributed.signals import AgreedStop
from alexnet_fast.inference.evaluation import EvaluationResult, Predictor, evaluate, with_progress
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.pipelines.loader import EvaluationLoader
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.job import EVALUATION_BATCH
from alexnet_fast.training.telemetry import Silent, Telemetry
from alexnet_fast.training.train_step import DivergedError, TrainingStep
from alexnet_fast.training.trainer import AGREE_EVERY, Progress


class Evaluator:
    """Measures the weights as they stand on the validation split.  All processes call it together."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        mesh: Mesh,
        device: torch.device,
        mean: Literal["image", "rgb"],
        train_step: TrainingStep,
        progress: Progress,
        stop: AgreedStop,
        telemetry: Telemetry | Silent,
        pause_training: Callable[[], None],
    ) -> None:
        """`pause_training`: frees what the training loader holds, which would stand idle meanwhile."""
        self.dataset, self.mesh, self.device, self.mean = dataset, mesh, device, mean
        self.train_step, self.progress, self.stop, self.telemetry = train_step, progress, stop, telemetry
        self.pause_training = pause_training
        self.center: EvaluationResult | None = None
        """The last result of `after_epoch`."""

    def after_epoch(self) -> None:
        """Center view; the run's errors so far."""
        self.center = self.evaluate(1)
        if self.center is not None:
            error = self.center.top1_error
            best = self.progress.best_error
            self.progress.error = error
            self.progress.best_error = error if best is None else min(error, best)

    def evaluate(self, num_views: Literal[1, 10]) -> EvaluationResult | None:
        """None where the data set has no validation split, and where a signal asked for the end in the middle."""
        if "val" not in self.dataset.splits:
            return None
        self.pause_training()
        loader = EvaluationLoader(
            self.dataset,
            batch_size=EVALUATION_BATCH,
            device=self.device,
            dtype=self.train_step.dtype,
            mean=self.mean,
            rank=self.mesh.replica,
            num_ranks=self.mesh.num_replicas,
        )
        predictor = Predictor(self.train_step.model, self.train_step.working)
        batches = with_progress(loader, num_views, self.telemetry.say, at_once=num_views == 10)
        result = evaluate([predictor], self.until_stop(batches, len(loader)), num_views=num_views, mesh=self.mesh)
        if self.stop.signal is not None:
            return None
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"after step {self.progress.step:,} the loss of the validation split is NaN or infinite"
            )
        self.telemetry.evaluation(self.progress.step, num_views, result)
        return result

    def until_stop(self, batches: Iterator[EvaluationBatch], num_batches: int) -> Iterator[EvaluationBatch]:
        """The batches, at least one, until a signal asks for the end; every process ends at the same one."""
        in_all = min(all_gather_object(self.mesh, num_batches))  # replicas' shares may differ by one
        for done, batch in enumerate(batches, start=1):
            yield batch
            if done <= in_all and (self.mesh.world_size == 1 or done % AGREE_EVERY == 0):
                self.stop.agree()
                if self.stop.signal is not None:
                    return
