"""The progress bar of a sharding run."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm

from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.shard import Progress


class ProgressBar:
    """Images done, img/s, MB/s read, time left, repaired and skipped; on stderr, where it is a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._last = Progress(0, 0)

    def show(self, progress: Progress) -> None:
        """Draw what has come since the last call."""
        if self._bar is None:
            # `initial` keeps resumed images out of the rate.
            self._bar = tqdm(
                total=progress.num_images,
                initial=progress.resumed_images,
                unit="pic",
                unit_scale=False,
                dynamic_ncols=True,
                smoothing=0.05,
                bar_format="{percentage:3.0f}% |{bar}| {n:,}/{total:,} [{elapsed} < {remaining}, {rate_fmt}{postfix}]",
                disable=None,
            )
        self._last = progress
        elapsed = max(self._bar.format_dict["elapsed"] or 0.0, 1e-3)
        self._bar.set_postfix_str(
            f"{progress.source_bytes / 1e6 / elapsed:.1f} MB/s, {progress.repaired:,} repaired, "
            f"{progress.skipped:,} skipped",
            refresh=False,
        )
        self._bar.update(progress.images - self._bar.n)

    @property
    def stopped(self) -> str:
        """How far a stopped run came and how to go on, for people."""
        if self._bar is None:
            return (
                "Stopped while the source was looked through, before any shard was begun. Run the same command again "
                "to begin; nothing that was done earlier is lost."
            )
        return (
            f"Stopped with {self._last.shards:,} of {counted(self._last.num_shards, 'shard')} done. Nothing that is "
            "done is lost; run the same command again to go on."
        )

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._bar is not None:
            self._bar.close()
