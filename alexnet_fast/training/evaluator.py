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
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.job import EVALUATION_BATCH
from alexnet_fast.training.telemetry import Silent, Telemetry
from alexnet_fast.training.train_step import TrainingStep
from alexnet_fast.training.trainer import Progress, agreement_interval

FP32_SLOWDOWN = 16.0
"""Most that float32 takes longer than half precision: the ratio of the multiplication rates of the GPUs and CPUs of
2020 to 2025 that have matrix units for bfloat16."""
FORWARD_PASSES_OF_A_STEP = 3.0
"""What training on an image costs, in forward passes: one forward, two of the same arithmetic backward."""
MOST_OF_THE_RUN = 0.1
"""Fraction of a run that its final evaluation may add by being in float32."""


def final_dtype(training: torch.dtype, *, trained: float, views: float) -> torch.dtype:
    """The dtype of the evaluation at the end: float32 where it surely costs less than a tenth of the run.

    training: dtype of the run.  trained: images of all its epochs.  views: images evaluated, times views of each.
    By counting alone, so that the same recipe on the same data is evaluated alike on every machine.
    """
    worth = views * FP32_SLOWDOWN < MOST_OF_THE_RUN * FORWARD_PASSES_OF_A_STEP * trained
    return torch.float32 if worth and training in (torch.bfloat16, torch.float16) else training


class Evaluator:
    """Measures the weights as they stand on the validation split.  All ranks call it together."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        mesh: Mesh,
        device: torch.device,
        mean: Literal["image", "rgb"],
        split: str,
        train_step: TrainingStep,
        progress: Progress,
        stop: AgreedStop,
        telemetry: Telemetry | Silent,
        pause_training: Callable[[], None],
    ) -> None:
        """`split`: that of `after_epoch`.  `pause_training`: frees what the training loader holds, idle meanwhile."""
        self.dataset, self.mesh, self.device, self.mean = dataset, mesh, device, mean
        self.train_step, self.progress, self.stop, self.telemetry = train_step, progress, stop, telemetry
        self.pause_training = pause_training
        self.split = split
        self.center: EvaluationResult | None = None
        """The last result of `after_epoch`."""

    def after_epoch(self) -> None:
        """Center view; the run's errors so far."""
        self.center = self.evaluate(1, self.split)
        if self.center is not None:
            error = self.center.top1_error
            best = self.progress.best_error
            self.progress.error = error
            self.progress.best_error = error if best is None else min(error, best)

    def final(self, num_views: Literal[1, 10], split: str, trained: float) -> EvaluationResult | None:
        """The evaluation at the end of a run that trained on `trained` images; None as of `evaluate`."""
        if split not in self.dataset.splits:
            return None
        views = num_views * self.dataset.split(split).samples
        dtype = final_dtype(self.train_step.dtype, trained=trained, views=views)
        if (num_views, split, dtype) == (1, self.split, self.train_step.dtype) and self.center is not None:
            return self.center
        return self.evaluate(num_views, split, dtype)

    def evaluate(
        self, num_views: Literal[1, 10], split: str, dtype: torch.dtype | None = None
    ) -> EvaluationResult | None:
        """None where the data set has no such split, and where a signal asked for the end in the middle.

        `dtype` None: that of the run.
        """
        if split not in self.dataset.splits:
            return None
        dtype = self.train_step.dtype if dtype is None else dtype
        self.pause_training()
        loader = EvaluationLoader(
            self.dataset,
            split=split,
            batch_size=EVALUATION_BATCH,
            device=self.device,
            dtype=dtype,
            mean=self.mean,
            rank=self.mesh.replica,
            num_ranks=self.mesh.num_replicas,
        )
        model = self.train_step.model
        weights = self.train_step.working if dtype == self.train_step.dtype else model.working_weights(dtype)
        predictor = Predictor(model, weights)
        batches = with_progress(loader, num_views, self.telemetry.say, at_once=num_views == 10)
        result = evaluate([predictor], self.until_stop(batches, len(loader)), num_views=num_views, mesh=self.mesh)
        if self.stop.signal is not None:
            return None
        if not math.isfinite(result.loss):
            raise DivergedError(f"after step {self.progress.step:,} the loss of the {split} split is NaN or infinite")
        self.telemetry.evaluation(self.progress.step, num_views, result, split)
        return result

    def until_stop(self, batches: Iterator[EvaluationBatch], num_batches: int) -> Iterator[EvaluationBatch]:
        """The batches, at least one, until a signal asks for the end; every process ends at the same one."""
        in_all = min(all_gather_object(self.mesh, num_batches))  # replicas' shares may differ by one
        for done, batch in enumerate(batches, start=1):
            yield batch
            if done <= in_all and done % agreement_interval(self.mesh, self.device) == 0:
                self.stop.agree()
                if self.stop.signal is not None:
                    return
