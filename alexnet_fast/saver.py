"""A run's checkpoints on the disk: the newest stay, what an abandoned course left goes, the best has a second name."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_fast.checkpoint import BEST, Checkpoint, checkpoint_path, save_checkpoint, saved_checkpoints, step_of


class Saver:
    """Writes checkpoints into one folder; the speaking process has it."""

    def __init__(self, folder: Path, keep: int) -> None:
        """`keep`: how many of the newest stay."""
        self.folder, self.keep = folder, keep

    def sweep(self) -> None:
        """Remove what a killed process had half-written; while the run's lock is held."""
        for file in self.folder.glob(".*.pt.partial"):
            file.unlink(missing_ok=True)

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Write, mark, drop what is no longer needed.  Raises OSError; what was there before stays then."""
        file = checkpoint_path(self.folder, checkpoint.step)
        save_checkpoint(file, checkpoint)
        if best:
            mark_best(file)
        self.drop_old(checkpoint.step)

    def drop_old(self, step: int) -> None:
        """Keep the newest ones up to the one after `step`, which was just written.

        Later ones are of a course that was left: steps count anew where an epoch has another number of them.
        """
        for file in saved_checkpoints(self.folder):
            if step_of(file) > step:
                file.unlink(missing_ok=True)
        for file in saved_checkpoints(self.folder)[: -self.keep]:
            file.unlink(missing_ok=True)


def mark_best(file: Path) -> None:
    """Give the checkpoint the second name best.pt, a hard link: no second copy on the disk."""
    aside = file.with_name(f".{BEST}.partial")
    aside.unlink(missing_ok=True)
    os.link(file, aside)
    aside.replace(file.with_name(BEST))
