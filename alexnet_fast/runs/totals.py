"""What a run has cost so far, over all its sessions: kept in its checkpoints, reported in result.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone


def utc_now() -> str:
    """As ISO 8601 writes it, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Totals:
    """Of the work that is in the weights: what a killed session did after its last checkpoint is done again."""

    started: str
    """When the run was begun; ISO 8601, UTC."""
    seconds: float = 0.0
    """Of all sessions, with evaluations and checkpoints."""
    images: int = 0
    """Trained with, all processes together."""
    training_seconds: float = 0.0
    """Without evaluations and checkpoints."""
    waited_seconds: float = 0.0
    """Of those, the ones in which the main rank had no batch."""
    energy_kwh: float | None = 0.0
    """Of all the run's GPUs; None: it is unknown of some session or GPU."""

    def with_training(self, images: int, seconds: float, waited: float) -> Totals:
        """So much more of it."""
        return replace(
            self,
            images=self.images + images,
            training_seconds=self.training_seconds + seconds,
            waited_seconds=self.waited_seconds + waited,
        )

    def with_session(self, seconds: float, energies_kwh: Sequence[float | None]) -> Totals:
        """With a session's length, and the energy that each of its processes' GPUs took."""
        known = [energy for energy in energies_kwh if energy is not None]
        energy = self.energy_kwh
        energy = None if energy is None or len(known) < len(energies_kwh) else energy + sum(known)
        return replace(self, seconds=self.seconds + seconds, energy_kwh=energy)

    @property
    def images_per_s(self) -> float | None:
        """While training; None: nothing was trained."""
        return self.images / self.training_seconds if self.images else None

    @property
    def data_wait(self) -> float | None:
        """Share of the training time that was waiting for data, 0..1; None: nothing was trained."""
        return self.waited_seconds / self.training_seconds if self.images else None
