"""One process's session of a run: the components, wired; from the checkpoint it resumes to result.json."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.config.precision import Precision, choose_precision
from alexnet_fast.config.recipe import Recipe
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh, all_gather_object, broadcast_object
from alexnet_fast.distributed.signals import AgreedStop, StopSignals
from alexnet_fast.distributed.torchrun_env import is_restarted
from alexnet_fast.inference.pretrained import load_pretrained
from alexnet_fast.network.model import AlexNet, load_whole_state, own_rows
from alexnet_fast.runs.checkpoint import Checkpoint, all_checkpoints, classes_of
from alexnet_fast.runs.checkpoint_manager import CheckpointManager
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import find_start, finished_result, restore_place
from alexnet_fast.runs.resume_command import with_command
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import StoppedError, UserError
from alexnet_fast.training.checkpointer import Checkpointer
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.evaluator import Evaluator
from alexnet_fast.training.illustrator import Illustrator
from alexnet_fast.training.job import Job, Loader, check_same_job, make_loader
from alexnet_fast.training.metrics import Meter
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.telemetry import Silent, Telemetry
from alexnet_fast.training.train_step import TrainingStep
from alexnet_fast.training.trainer import Hook, Progress, Trainer


@dataclass(frozen=True)
class Session:
    """What one process needs to train, until `close`."""

    mesh: Mesh
    device: torch.device
    job: Job
    folder: RunFolder
    precision: Precision
    schedule: Schedule
    loader: Loader
    model: AlexNet
    train_step: TrainingStep
    meter: Meter
    progress: Progress
    stop: AgreedStop
    telemetry: Telemetry | Silent
    manager: CheckpointManager
    evaluator: Evaluator
    checkpointer: Checkpointer
    illustrator: Illustrator
    trainer: Trainer
    place_kept: bool
    """Whether the place within an epoch, where the checkpoint had one, could be kept."""

    def run(self, finish: Callable[[Session], dict[str, Any] | None]) -> dict[str, Any]:
        """All epochs that are left, then the last evaluation, result.json and the figures; what result.json holds.

        finish: what comes after the last step; gives None where a signal asked for the end meanwhile.

        Raises StoppedError when a signal asked for the end, DivergedError.
        """
        result = broadcast_object(self.mesh, finished_result(self.folder, self.schedule, self.progress.step))
        if result is not None:
            self.telemetry.say(f"This run is done already: nothing is left to train. Its result: {self.folder.result}")
            return result
        self.telemetry.session(self.progress.step, self.job.dataset.folder, self.job.options)
        if self.mesh.is_main_rank:
            self.folder.result.unlink(missing_ok=True)  # of a shorter run: this one is not done
        try:
            self.stop.agree()
            if self.stop.signal is None and self.owes_evaluation():
                self.evaluator.after_epoch()
                self.checkpointer.save()
            self.trainer.train()
            result = None if self.stop.signal is not None else finish(self)
        except DivergedError as error:
            explained = self.explained(error)
            self.telemetry.diverged(self.progress.step, str(explained))
            raise explained from error
        if result is None:
            raise self.stopped()
        return result

    def owes_evaluation(self) -> bool:
        """Whether the run was stopped between an epoch's last step and its evaluation.

        Not where the place within an epoch was lost: weights of its middle are no epoch's result.
        """
        step = self.progress.step
        at_an_end = step % self.schedule.steps_per_epoch == 0 or step >= self.schedule.num_steps
        return step > 0 and at_an_end and self.place_kept and self.progress.error is None

    def stopped(self) -> UserError:
        """What to raise after a signal: where the run stands, and how to resume it; a StoppedError if all is saved."""
        assert self.stop.signal is not None
        step, total = self.progress.step, self.schedule.num_steps
        state = self.manager.complaint() if self.manager.unsaved else "everything is saved"
        stopped = f"stopped by {self.stop.signal.name} after step {step:,} of {total:,}; {state}"
        text = with_command(f"{stopped}. To resume", self.job.again)
        return UserError(text) if self.manager.unsaved else StoppedError(text, self.stop.signal)

    def explained(self, error: DivergedError) -> DivergedError:
        """With the learning rates, the last good checkpoint, and what to try."""
        rates = self.schedule.rates(max(0, self.progress.step - 1))
        return DivergedError(
            f"{error}. The learning rates were {rates.weights:g} (weights) and {rates.biases:g} (biases); "
            f"{self.manager.newest()}. "
            f"To try: --set lr_weights=[…] and lr_biases=[…] with smaller values in a new run."
        )

    def close(self) -> None:
        """Free the loader's threads and images, write out the metrics."""
        self.loader.close()
        self.telemetry.close()


def open_session(
    mesh: Mesh, device: torch.device, job: Job, signals: StopSignals, loader: Loader | None = None
) -> Session:
    """Build the components, resumed from the run's checkpoint if there is one.

    `loader`: instead of the data set's own, for measuring.
    """
    recipe, dataset, folder = job.recipe, job.dataset, RunFolder(job.run)
    check_same_job(mesh, job)
    precision = choose_precision(device, recipe.precision_to_train_in)
    loader = loader if loader is not None else make_loader(mesh, device, job, precision)
    schedule = Schedule(recipe, loader.num_batches)
    # torchrun starts the processes again after a failure: then the run has newer checkpoints than the one given.
    restarted = is_restarted() and bool(all_checkpoints(folder.checkpoints))
    named = broadcast_object(mesh, None if restarted else job.checkpoint)
    start, notes = find_start(folder, dataset, recipe, mesh=mesh, resume=job.resume, checkpoint=named)
    architecture = recipe.architecture(len(dataset.classes))
    model = AlexNet(architecture, exchange=mesh.make_exchange(architecture.num_towers)).to(device)
    optimizer = SGD(model, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    if start is None:
        notes += initialize(model, recipe, classes_of(dataset), mesh)
    else:
        check_same_weights(mesh, start.model)
        load_whole_state(model, start.model)
        if start.optimizer is not None:
            optimizer.load_whole_state(start.optimizer)
    train_step = TrainingStep(
        model, optimizer, precision=precision, mesh=mesh, loader_memory=loader.memory,
        loads_whole_batches=recipe.exact_2012, frozen=recipe.frozen,
    )  # fmt: skip
    notes += prepare_step(train_step, recipe, device, loader)
    step, place_note = restore(start, train_step, loader, schedule, mesh)
    notes += [place_note] if place_note is not None else []
    progress = Progress(step)
    if start is not None and start.recipe.val_split == recipe.val_split:  # another split's errors are not comparable
        progress = Progress(step, start.error, start.best_error)
    manager = CheckpointManager(
        folder.checkpoints, keep=recipe.keep_checkpoints, mesh=mesh, step=start.step if start else None
    )
    telemetry: Telemetry | Silent = Silent()
    if mesh.is_main_rank:
        if named is not None and start is not None:
            moved = manager.set_aside(start.step, folder.metrics)
            notes += [moved] if moved is not None else []
        manager.begin(start)
        atomic.write_text(folder.recipe, recipe.to_toml(named=True))  # the first: with it the run has begun
        ends_here = step >= schedule.num_steps and finished_result(folder, schedule, step) is None
        folder.forget_after(step / schedule.steps_per_epoch, evaluations_too=ends_here)
        telemetry = Telemetry(folder, schedule, first_step=step, quiet=job.quiet)
    for note in notes:
        telemetry.event(step, note)
    meter = Meter(mesh, device, start.totals if start else None)
    stop = AgreedStop(mesh, signals)
    evaluator = Evaluator(
        dataset, mesh=mesh, device=device, mean=recipe.mean, split=recipe.val_split, train_step=train_step,
        progress=progress, stop=stop, telemetry=telemetry, pause_training=loader.pause,
    )  # fmt: skip
    checkpointer = Checkpointer(
        dataset, recipe, mesh=mesh, schedule=schedule, model=model, optimizer=optimizer, train_step=train_step,
        loader=loader, meter=meter, progress=progress, manager=manager, telemetry=telemetry,
    )  # fmt: skip

    illustrator = Illustrator(folder, mesh=mesh, schedule=schedule, model=model, progress=progress, telemetry=telemetry)

    def report() -> None:
        done = progress.step - 1
        pca_jitter = schedule.pca_jitter(done // schedule.steps_per_epoch)
        telemetry.training(progress.step, meter.read(), schedule.rates(done), pca_jitter)

    def draw_at_stop() -> None:
        if not manager.unsaved:
            telemetry.say(f"Saved after step {progress.step:,}; drawing the figures …")
        illustrator.at_stop()

    hooks = (
        # The others' time is not training: the meter is read before each of them.
        Hook(report, lambda: meter.is_due or checkpointer.is_due(), after_epoch=True, at_stop=True),
        Hook(evaluator.after_epoch, after_epoch=True),
        Hook(checkpointer.save, checkpointer.is_due, after_epoch=True, at_stop=True),
        Hook(illustrator.record, after_epoch=True),
        Hook(draw_at_stop, at_stop=True),
    )
    trainer = Trainer(
        mesh=mesh, schedule=schedule, seed=recipe.seed, loader=loader, optimizer=optimizer, train_step=train_step,
        meter=meter, progress=progress, stop=stop, hooks=hooks,
        begin_epoch=lambda epoch: telemetry.begin_epoch(epoch, progress.step),
    )  # fmt: skip
    return Session(
        mesh, device, job, folder, precision, schedule, loader, model, train_step, meter, progress, stop, telemetry,
        manager, evaluator, checkpointer, illustrator, trainer, place_note is None,
    )  # fmt: skip


def initialize(model: AlexNet, recipe: Recipe, classes: tuple[tuple[str, str], ...], mesh: Mesh) -> list[str]:
    """Random weights by the recipe's seed, and over them those of `init`; notes for the user of these."""
    model.initialize(recipe.seed)
    if not recipe.init:
        return []
    found = load_pretrained(Path(recipe.init), model.architecture, recipe.network, classes)
    check_same_weights(mesh, found.tensors)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in found.tensors:
                parameter.copy_(own_rows(model, name, found.tensors[name]))
    return found.notes


def check_same_weights(mesh: Mesh, weights: dict[str, torch.Tensor]) -> None:
    """UserError, on every rank, where they read different weights: replicas, or towers, would train on unnoticed.

    All ranks call it together.
    """
    if mesh.world_size == 1:
        return
    digest = hashlib.blake2b()
    for tensor in weights.values():
        digest.update(tensor.numpy().tobytes())
    if len(set(all_gather_object(mesh, digest.digest()))) > 1:
        raise UserError(
            "The processes read different weights: another process wrote the file meanwhile, such as a run that still "
            "trains, or each machine has one of its own. Name a file that stays as it is, with --init or --resume."
        )


def restore(
    start: Checkpoint | None, train_step: TrainingStep, loader: Loader, schedule: Schedule, mesh: Mesh
) -> tuple[int, str | None]:
    """Put loader and loss scale where the checkpoint left them; (step to train next, notes for the user)."""
    if start is None:
        return 0, None
    train_step.load_state_dict(start.scaler)
    return restore_place(
        loader.load_state_dict,
        start,
        schedule,
        rank=mesh.data_rank,
        num_ranks=mesh.num_data_ranks,
        all_agree=lambda fine: not mesh.any_process(not fine)[0],
    )


def prepare_step(train_step: TrainingStep, recipe: Recipe, device: torch.device, loader: Loader) -> list[str]:
    """Time what is timed on a GPU and capture the step, before the loader starts; what to say of it.

    A thread of DALI that waits for the device makes a capture fail, and takes time from what is being timed.
    """
    said = [choose_convolutions(train_step, loader.batch_size)]
    if recipe.cuda_graph and device.type == "cuda":
        said.append(train_step.capture(loader.batch_size, loader.dtype))
    return [note for note in said if note is not None]
