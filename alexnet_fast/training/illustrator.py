"""A run's figures while it trains, and conv1's weights after each epoch for the report's filmstrip."""

from __future__ import annotations

import time

from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.network.model import AlexNet, whole_tensor
from alexnet_fast.runs.figures import Floats, conv1_before, conv1_history, draw_report, record_conv1
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.training.telemetry import Silent, Telemetry
from alexnet_fast.training.trainer import Progress

DRAW_SECONDS = 60.0
"""Between two drawings during a run: an epoch may be shorter than drawing takes."""


class Illustrator:
    """Gathers conv1; the main rank keeps and draws it.  All ranks call it together."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        mesh: Mesh,
        schedule: Schedule,
        model: AlexNet,
        progress: Progress,
        telemetry: Telemetry | Silent,
    ) -> None:
        self.folder, self.mesh, self.schedule, self.model = folder, mesh, schedule, model
        self.progress, self.telemetry = progress, telemetry
        self.drawn = time.monotonic()
        if progress.step % schedule.steps_per_epoch == 0:
            self.record()  # the initial weights, or what a process that was killed just after its checkpoint had begun

    def conv1(self) -> Floats | None:
        """(maps, 3, 11, 11), tower 0's first; None in processes that need not gather it."""
        if not self.mesh.writes_state:
            return None
        weight = whole_tensor(self.model, "conv1.weight", self.model.get_parameter("conv1.weight").detach())
        whole: Floats = weight.float().numpy()
        return whole

    def record(self) -> None:
        """After an epoch: keep conv1, and draw the figures if the last drawing is old.

        A disk that takes no more costs a figure, never the run.
        """
        conv1 = self.conv1()
        if conv1 is None or not self.mesh.is_main_rank:
            return
        epoch, rest = divmod(self.progress.step, self.schedule.steps_per_epoch)
        try:
            if not rest:
                record_conv1(self.folder, epoch, conv1)
            if self.progress.step and time.monotonic() - self.drawn >= DRAW_SECONDS:
                self.draw_now(conv1)
        except OSError as error:
            self.telemetry.say(f"The figures could not be written ({error.strerror}); training continues.")

    def draw(self) -> None:
        """The figures as the run stands.  Raises OSError."""
        conv1 = self.conv1()
        if conv1 is not None and self.mesh.is_main_rank:
            self.draw_now(conv1)

    def at_stop(self) -> None:
        """When a signal asks for the end, after the checkpoint: nothing may fail any more."""
        try:
            self.draw()
        except OSError as error:
            self.telemetry.say(f"The figures could not be written ({error.strerror}).")

    def draw_now(self, conv1: Floats) -> None:
        """By the main rank alone."""
        architecture = self.model.architecture
        initial = conv1_before(conv1_history(self.folder), self.schedule.recipe, architecture.num_classes)
        draw_report(self.folder.path, conv1, architecture.num_towers, initial)
        self.drawn = time.monotonic()
