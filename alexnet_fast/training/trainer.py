"""The training loop: batches in, steps, evaluations, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh, all_gather_object, broadcast_object
from alexnet_fast.distributed.signals import Interruption
from alexnet_fast.inference.evaluation import EvaluationResult, Predictor, evaluate, told
from alexnet_fast.network.model import AlexNet, load_whole_state, whole_state, whole_tensor
from alexnet_fast.pipelines.loader import EvaluationLoader
from alexnet_fast.runs import checkpoint as checkpoints
from alexnet_fast.runs.checkpoint import Checkpoint
from alexnet_fast.runs.checkpoint_manager import LastSaved, Outcome, Saver
from alexnet_fast.runs.figures import draw_report
from alexnet_fast.runs.folder import RunFolder, to_json
from alexnet_fast.runs.resume import find_start, finished_result, restore_place
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.energy import EnergyCounter
from alexnet_fast.training.job import EVALUATION_BATCH, Job, Loader, StoppedError, make_loader
from alexnet_fast.training.metrics import Meter
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.result import about_errors, about_run, about_totals
from alexnet_fast.training.telemetry import Silent, Telemetry
from alexnet_fast.training.train_step import BatchesAhead, DivergedError, TrainingStep

AGREE_EVERY = 8
"""Steps after which several processes ask one another whether anybody was told to stop."""


class Trainer:
    """One process's network, data and place in the run."""

    def __init__(self, mesh: Mesh, device: torch.device, job: Job, loader: Loader | None = None) -> None:
        """`loader`: instead of the data set's own, for measuring."""
        self.mesh, self.device, self.job, self.recipe = mesh, device, job, job.recipe
        self.folder = RunFolder(job.run)
        self.precision = choose_precision(device, self.recipe.precision)
        self.loader = loader if loader is not None else make_loader(mesh, device, job, self.precision)
        self.schedule = Schedule(self.recipe, self.loader.num_batches)
        start, notes = self.find_start()
        architecture = self.recipe.architecture(len(job.dataset.classes))
        self.model = AlexNet(architecture, exchange=mesh.make_exchange(architecture.num_towers)).to(device)
        self.optimizer = SGD(self.model, momentum=self.recipe.momentum, weight_decay=self.recipe.weight_decay)
        if start is None:
            self.model.initialize(self.recipe.seed)
        else:
            load_whole_state(self.model, start.model)
            if start.optimizer is not None:
                self.optimizer.load_whole_state(start.optimizer)
        record = self.recipe.cuda_graph and device.type == "cuda" and mesh.world_size == 1
        self.train_step = TrainingStep(
            self.model, self.optimizer, precision=self.precision, mesh=mesh, record=record,
            loader_memory=self.loader.memory,
        )  # fmt: skip
        self.step = self.restore(start, notes)
        self.saved = LastSaved(self.folder.checkpoints, start.step if start else None)
        self.best_error = start.best_error if start else None
        self.error = start.error if start else None
        self.center: EvaluationResult | None = None
        self.begun, self.energy = time.monotonic(), EnergyCounter(device)
        self.meter = Meter(mesh, device, start.totals if start else None)
        self.telemetry: Telemetry | Silent = Silent()
        self.saver = Saver(self.folder.checkpoints, self.recipe.keep_checkpoints)
        if mesh.is_main_rank:
            self.saver.begin(start)
            atomic.write_text(
                self.folder.recipe, self.recipe.to_toml(named=True)
            )  # the first: with it the run has begun
            self.folder.forget_after(self.step / self.schedule.steps_per_epoch)
            self.telemetry = Telemetry(self.folder, self.schedule, first_step=self.step, quiet=job.quiet)
        for note in notes:
            self.telemetry.event(self.step, note)

    def find_start(self) -> tuple[Checkpoint | None, list[str]]:
        """The checkpoint to go on from, if asked to, or if torchrun started this process anew after a failure."""
        if self.job.resume or checkpoints.saved_checkpoints(self.folder.checkpoints):
            return find_start(self.folder, self.job.dataset, self.recipe)
        return None, []

    def restore(self, start: Checkpoint | None, notes: list[str]) -> int:
        """Put loader and loss scale where the checkpoint left them; the step to go on with."""
        self.place_kept = True
        if start is None:
            return 0
        self.train_step.load_state_dict(start.scaler)
        step, note = restore_place(
            self.loader.load_state_dict,
            start,
            self.schedule,
            rank=self.mesh.data_rank,
            num_ranks=self.mesh.num_data_ranks,
            all_agree=lambda fine: not self.mesh.any_process(not fine)[0],
        )
        if note is not None:
            notes.append(note)
            self.place_kept = False
        return step

    def owes_evaluation(self) -> bool:
        """Whether the run was stopped between an epoch's last step and its evaluation.

        Not where the place within an epoch was lost: weights of its middle are no epoch's result.
        """
        at_an_end = self.step % self.schedule.steps_per_epoch == 0 or self.step >= self.schedule.num_steps
        return self.step > 0 and at_an_end and self.place_kept and self.error is None

    # ------------------------------------------------------------------- the run

    def run(self, interruption: Interruption) -> dict[str, Any]:
        """All epochs that are left, then the last evaluation and the report."""
        result = broadcast_object(self.mesh, finished_result(self.folder, self.schedule, self.step))
        if result is not None:
            self.telemetry.say(f"This run is done already: nothing is left to train. Its result: {self.folder.result}")
            return result
        self.telemetry.session(self.step, self.job.dataset.folder, self.job.options)
        if self.mesh.is_main_rank:
            self.folder.result.unlink(missing_ok=True)  # of a shorter run: this one is not done
        try:
            if self.owes_evaluation():
                self.end_epoch()
            while self.step < self.schedule.num_steps:
                for _ in self.steps_of_epoch(interruption):
                    pass
                self.end_epoch()
            return self.finish()
        except DivergedError as error:
            explained = self.explained(error)
            self.telemetry.diverged(self.step, str(explained))
            raise explained from error

    def end_epoch(self) -> None:
        """Center view over the validation split, and a checkpoint."""
        self.center = self.evaluate(1)
        if self.center is not None:
            self.telemetry.evaluation(self.step, 1, self.center)
            self.error = self.center.top1_error
            self.best_error = self.error if self.best_error is None else min(self.error, self.best_error)
        self.save()

    def steps_of_epoch(self, interruption: Interruption) -> Iterator[int]:
        """Do the steps from where the run stands to the end of the epoch, or of the run; their numbers."""
        epoch = self.step // self.schedule.steps_per_epoch
        last = min((epoch + 1) * self.schedule.steps_per_epoch, self.schedule.num_steps)
        pca_jitter = self.schedule.pca_jitter(epoch)
        rates = None
        batches = BatchesAhead(self.loader.epoch(epoch, pca_jitter=pca_jitter), self.train_step)
        self.telemetry.begin_epoch(epoch, self.step)
        self.meter.start()
        while self.step < last:
            with self.meter.waiting():
                # A batch that was taken before a checkpoint and not trained on would be lost to who goes on from it.
                batch = batches.next(ahead=not self.looks_up_after(self.step + 1, last))
            if rates != (rates := self.schedule.rates(self.step)):
                self.optimizer.set_rates(weights=rates.weights, biases=rates.biases, conv1=rates.conv1)
            self.meter.add(self.train_step(batch, step=self.step, seed=self.recipe.seed))
            self.step += 1
            self.error = None
            if self.looks_up_after(self.step, last):
                self.look_up(interruption, pca_jitter, end_of_epoch=self.step == last)
            yield self.step
        self.train_step.drain()

    def looks_up_after(self, step: int, last: int) -> bool:
        """Whether the run may be saved or stopped between this step and the next; `last` ends the epoch."""
        return self.mesh.world_size == 1 or step % AGREE_EVERY == 0 or step == last

    def look_up(self, interruption: Interruption, pca_jitter: bool, *, end_of_epoch: bool) -> None:
        """Between two steps: tell, save, stop, if it is time to."""
        stop, save, tell = self.mesh.any_process(
            interruption.asked,
            self.saved.minutes_ago() >= self.recipe.checkpoint_minutes,
            self.meter.is_due,
        )
        if tell or save or end_of_epoch or stop:
            self.telemetry.training(self.step, self.meter.read(), self.schedule.rates(self.step - 1), pca_jitter)
        if stop or (save and not end_of_epoch):
            self.train_step.drain()
            self.save()
            self.meter.start()
        if stop:
            raise StoppedError(
                f"stopped after step {self.step:,} of {self.schedule.num_steps:,}; "
                f"{self.saved.complaint() if self.saved.unsaved else 'everything is saved'}. "
                f"Go on with {self.job.again}."
            )

    def evaluate(self, num_views: Literal[1, 10]) -> EvaluationResult | None:
        """Over the validation split; None where the data set has none."""
        if "val" not in self.job.dataset.splits:
            return None
        self.loader.pause()  # its threads and buffers would stand idle beside the evaluation's
        loader = EvaluationLoader(
            self.job.dataset,
            batch_size=EVALUATION_BATCH,
            device=self.device,
            dtype=self.train_step.dtype,
            mean=self.recipe.mean,
            rank=self.mesh.replica,
            num_ranks=self.mesh.num_replicas,
        )
        predictor = Predictor(self.model, self.train_step.working)
        batches = told(loader, num_views, self.telemetry.say, at_once=num_views == 10)
        result = evaluate([predictor], batches, num_views=num_views, mesh=self.mesh)
        if not math.isfinite(result.loss):
            raise DivergedError(f"after step {self.step:,} the loss of the validation split is NaN or infinite")
        return result

    # ---------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint; where the disk is full, say so and go on with the one before.

        Raises DivergedError, in every process, if weights are not finite.
        """
        state = self.state()
        outcome = self.saver.save(state) if state is not None and self.mesh.is_main_rank else Outcome()
        outcome = broadcast_object(self.mesh, outcome)
        for note in outcome.notes:
            self.telemetry.event(self.step, note)
        if outcome.diverged:
            raise DivergedError(outcome.diverged)
        self.saved.note(self.step, outcome.unsaved)
        if outcome.unsaved:
            self.telemetry.event(
                self.step,
                f"The checkpoint after step {self.step:,} could not be written ({outcome.unsaved}); {self.saved}. "
                f"Training goes on. Make room in {self.folder.checkpoints}.",
            )

    def totals(self) -> Totals:
        """What the run has cost until now.  All processes call it together."""
        return self.meter.totals.with_session(
            time.monotonic() - self.begun, all_gather_object(self.mesh, self.energy.kwh())
        )

    def state(self) -> Checkpoint | None:
        """The run as it stands; None in processes that need not write it.  All processes call it together."""
        inside = self.step % self.schedule.steps_per_epoch != 0
        places, totals = all_gather_object(self.mesh, self.loader.state_dict() if inside else None), self.totals()
        if not self.mesh.writes_state:
            return None
        return Checkpoint(
            recipe=self.recipe,
            classes=checkpoints.classes_of(self.job.dataset),
            dataset_fingerprint=self.job.dataset.fingerprint,
            image_options=self.job.dataset.image_options,
            mean=checkpoints.mean_of(self.job.dataset, self.recipe.mean),
            model=whole_state(self.model),
            optimizer=self.optimizer.whole_state(),
            step=self.step,
            steps_per_epoch=self.schedule.steps_per_epoch,
            loaders=tuple(place for place in places if place is not None),
            scaler=self.train_step.state_dict(),
            error=self.error,
            best_error=self.best_error,
            totals=totals,
        )

    # ------------------------------------------------------------------------ end

    def explained(self, error: DivergedError) -> DivergedError:
        """With the rates, the last good checkpoint, and what to try."""
        rates = self.schedule.rates(max(0, self.step - 1))
        return DivergedError(
            f"{error}. The rates were {rates.weights:g} (weights) and {rates.biases:g} (biases); {self.saved}. "
            f"To try: --set lr_weights=[…] and lr_biases=[…] with smaller values in a new run."
        )

    def finish(self) -> dict[str, Any]:
        """The last evaluation, result.json and the figures."""
        center = self.center or self.evaluate(1)
        final = center if self.recipe.final_views == 1 else self.evaluate(self.recipe.final_views)
        if center is None or final is None:
            self.telemetry.say("The data set has no validation split: nothing was evaluated.")
        elif final is not center:
            self.telemetry.evaluation(self.step, self.recipe.final_views, final)
        if self.saved.unsaved:
            self.save()  # there may be room by now
        if self.saved.unsaved:
            raise UserError(f"the run is at its end, but {self.saved.complaint()}. Then finish it: {self.job.again}.")
        result = {
            **about_run(self.job, self.mesh, self.device, self.precision.name, self.loader.memory.kept),
            "steps": self.step,
            "epochs": self.step / self.schedule.steps_per_epoch,
            **about_totals(self.totals()),
            **about_errors(center, final, self.recipe.final_views, self.best_error),
        }
        conv1 = self.conv1()
        if self.mesh.is_main_rank and conv1 is not None:
            draw_report(self.folder.path, conv1.float().numpy(), self.model.architecture.num_towers)
            # The last of all: whoever finds it finds everything.
            atomic.write_text(self.folder.result, to_json(result, indent=2) + "\n")
        return result

    def conv1(self) -> torch.Tensor | None:
        """conv1's whole weights, for the report; None in processes that need not gather them."""
        if not self.mesh.writes_state:
            return None
        return whole_tensor(self.model, "conv1.weight", self.optimizer.parameters["conv1.weight"].detach())

    def close(self) -> None:
        """Free the loader's threads and images, write out the metrics."""
        self.loader.close()
        self.telemetry.close()
