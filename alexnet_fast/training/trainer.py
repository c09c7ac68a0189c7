"""The training loop: batches in, steps, and between two steps whatever hooks are due.

Components are constructed in `session`; saving, evaluation and telemetry are hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.signals import AgreedStop
from alexnet_fast.training.half_batches import BatchesAhead
from alexnet_fast.training.job import Loader
from alexnet_fast.training.metrics import Meter
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

AGREE_EVERY = 8
"""Steps on GPUs after which several processes ask one another whether a hook is due or a signal came."""


def agreement_interval(mesh: Mesh, device: torch.device) -> int:
    """Steps, or batches of an evaluation, after which processes agree.

    On a CPU each takes seconds, of which who stops a container or a batch job grants few.
    """
    return AGREE_EVERY if mesh.world_size > 1 and device.type == "cuda" else 1


@dataclass
class Progress:
    """Where the run stands; the loop and its hooks share it."""

    step: int = 0
    """Steps done."""
    error: float | None = None
    """Top-1 error (0..1) of these very weights, center view; None: not evaluated."""
    best_error: float | None = None
    """Lowest of the run's evaluations so far."""


@dataclass(frozen=True)
class Hook:
    """Side work between two steps.  Every process has the same hooks, and runs them together."""

    run: Callable[[], None]
    is_due: Callable[[], bool] = lambda: False
    """Asked in every process; one that says yes decides for all."""
    after_epoch: bool = False
    """Whether it also runs after an epoch's last step, and the run's."""
    at_stop: bool = False
    """Whether it also runs, and alone such hooks do, when a signal asks for the end."""


class Trainer:
    """Trains one process's network with its share of the batches."""

    def __init__(
        self,
        *,
        mesh: Mesh,
        schedule: Schedule,
        seed: int,
        loader: Loader,
        optimizer: SGD,
        train_step: TrainingStep,
        meter: Meter,
        progress: Progress,
        stop: AgreedStop,
        hooks: Sequence[Hook],
        begin_epoch: Callable[[int], None],
    ) -> None:
        """`hooks` run in their order.  `begin_epoch`: called with each epoch's number, from 0."""
        self.mesh, self.schedule, self.seed = mesh, schedule, seed
        self.loader, self.optimizer, self.train_step, self.meter = loader, optimizer, train_step, meter
        self.progress, self.stop, self.hooks, self.begin_epoch = progress, stop, hooks, begin_epoch

    def train(self) -> None:
        """All steps that are left, or those until a signal asks for the end: then `stop.signal` is set."""
        while self.progress.step < self.schedule.num_steps and self.stop.signal is None:
            for _ in self.steps_of_epoch():
                pass

    def steps_of_epoch(self) -> Iterator[int]:
        """Do the steps from where the run stands to the end of the epoch, or of the run; their numbers."""
        progress = self.progress
        epoch = progress.step // self.schedule.steps_per_epoch
        last = min((epoch + 1) * self.schedule.steps_per_epoch, self.schedule.num_steps)
        batches = BatchesAhead(
            self.loader.epoch(epoch, pca_jitter=self.schedule.pca_jitter(epoch)), self.train_step.halves
        )
        rates = None
        self.begin_epoch(epoch)
        self.meter.start()
        while progress.step < last:
            with self.meter.waiting():
                # A batch that was taken before a checkpoint and not trained on would be lost to a resumed run.
                batch = batches.next(ahead=not self.agrees_after(progress.step + 1, last))
            if rates != (rates := self.schedule.rates(progress.step)):
                self.optimizer.set_rates(**asdict(rates))
            self.meter.add(self.train_step(batch, step=progress.step, seed=self.seed))
            progress.step += 1
            progress.error = None
            if progress.step < last and self.agrees_after(progress.step, last):
                self.run_hooks(after_epoch=False)
                if self.stop.signal is not None:
                    return
            yield progress.step
        del batches  # the loader's epoch ends before an evaluation pauses it
        self.train_step.drain()
        self.run_hooks(after_epoch=True)

    def agrees_after(self, step: int, last: int) -> bool:
        """Whether hooks may run between this step and the next; `last` ends the epoch."""
        return step % agreement_interval(self.mesh, self.train_step.device) == 0 or step == last

    def run_hooks(self, *, after_epoch: bool) -> None:
        """Agree with the other processes on what is due, and do it.  A stop that comes meanwhile is heeded at once."""
        due = self.stop.agree(*(hook.is_due() for hook in self.hooks))
        ran = False
        for hook, is_due in zip(self.hooks, due, strict=True):
            wanted = is_due or (after_epoch and hook.after_epoch)
            if hook.at_stop if self.stop.signal is not None else wanted:
                hook.run()
                ran = True
        if ran:
            self.meter.start()
