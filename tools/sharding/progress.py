"""The progress bar of a sharding run."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm

from alexnet_fast.tools.messages import BAR, counted, fitting, terminal_columns
from alexnet_fast.tools.sharding.shard import Progress


class ProgressBar:
    """Images done, time left, skipped, img/s, converted, MB/s read; on stderr, where it is a terminal."""

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
                dynamic_ncols=True,
                smoothing=0.05,
                bar_format="{percentage:3.0f}%",
                disable=None,
            )
        self._last = progress
        bar = self._bar
        done = f"{progress.images:,}/{progress.num_images:,}"
        rate, seconds = bar.format_dict["rate"], max(bar.format_dict["elapsed"] or 0.0, 1e-3)
        made = progress.images - progress.resumed_images
        rate = rate or made / seconds
        facts = [
            *([f"{bar.format_interval((progress.num_images - progress.images) / rate)} left"] if rate else []),
            f"{progress.skipped:,} skipped",
            *([f"{rate:,.0f} img/s"] if rate else []),
            f"{progress.repaired:,} converted",
            f"{progress.source_bytes / 1e6 / seconds:.1f} MB/s",
        ]
        columns = terminal_columns()
        start = f"{{percentage:3.0f}}% |{{bar}}| {done}, "
        bar.bar_format = start + fitting(facts, columns, len(f"100% | {done}, ") + BAR)
        bar.update(progress.images - bar.n)

    @property
    def stopped(self) -> str:
        """How far a stopped run came and how to resume it, for people."""
        if self._bar is None:
            return (
                "Stopped while the source was being listed, before the first shard. Run the same command again to "
                "begin; what was done earlier is kept."
            )
        return (
            f"Stopped with {self._last.shards:,} of {counted(self._last.num_shards, 'shard')} done. They are kept: "
            "run the same command again to resume."
        )

    def close(self) -> None:
        """Leave the bar as it is and move to the next line."""
        if self._bar is not None:
            self._bar.close()
