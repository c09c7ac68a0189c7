"""A run's pictures: its curves, and what conv1 has learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.run_folder import RunFolder

Floats = npt.NDArray[np.float32]

FILTERS_IN_ROW = 16
INK = "#333333"
TRAIN, VALIDATION, TEN_VIEWS = "#8c8c8c", "#c0504d", "#3f7fbf"


def draw_report(run: Path, conv1: Floats, num_towers: int) -> list[Path]:
    """Draw figures/curves.png and figures/conv1.png of a run; the files.

    conv1: (maps, 3, 11, 11), the weights of conv1, tower 0's first.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder = RunFolder(run)
    files = [folder.figures / "curves.png", folder.figures / "conv1.png"]
    draw_curves(folder.read_metrics(), files[0])
    draw_filters(conv1, num_towers, files[1])
    return files


def draw_curves(metrics: Sequence[dict[str, Any]], file: Path) -> None:
    """Error and loss over the epochs, training (with dropout and random crops) and validation."""
    import matplotlib.pyplot as plt

    train = [line for line in metrics if line["kind"] == "train"]
    centre = [line for line in metrics if line["kind"] == "val" and line["views"] == 1]
    ten = [line for line in metrics if line["kind"] == "val" and line["views"] == 10]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), dpi=100, layout="constrained")
    for place, (key, val_key, title) in zip(
        axes, (("error", "top1_error", "top-1 error"), ("loss", "loss", "cross-entropy")), strict=True
    ):
        place.plot(*series(train, key), color=TRAIN, linewidth=1, label="training, with dropout and random crops")
        place.plot(
            *series(centre, val_key), color=VALIDATION, marker="o", markersize=4, label="validation, centre view"
        )
        if ten:
            place.plot(*series(ten, val_key), color=TEN_VIEWS, marker="D", linestyle="", label="validation, ten views")
        mark_rates(place, train)
        place.set_title(title, color=INK)
        place.set_xlabel("epoch")
        place.set_xlim(left=0)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    axes[0].set_ylim(0, 1)
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, file)


def series(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(epochs, values); a value that was not finite is null in the file and a gap in the curve."""
    return [line["epoch"] for line in lines], [math.nan if line[key] is None else line[key] for line in lines]


def mark_rates(place: Any, train: Sequence[dict[str, Any]]) -> None:
    """A thin line where the weights' learning rate changed, with the new rate."""
    for before, after in pairwise(train):
        if after["weight_rate"] < before["weight_rate"]:
            place.axvline(before["epoch"], color=INK, linewidth=0.6, linestyle=":")
            place.annotate(
                f"ε {after['weight_rate']:g}",
                (before["epoch"], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )


def draw_filters(conv1: Floats, num_towers: int, file: Path) -> None:
    """conv1's kernels as the paper's figure 3 shows them, a block for each tower; each kernel with its own contrast."""
    import matplotlib.pyplot as plt

    blocks = np.split(conv1, num_towers)
    rows = -(-len(blocks[0]) // FILTERS_IN_ROW)
    figure, axes = plt.subplots(
        num_towers, 1, figsize=(9, 0.62 * rows * num_towers + 0.5), dpi=100, layout="constrained", squeeze=False
    )
    for tower, (place, block) in enumerate(zip(axes[:, 0], blocks, strict=True)):
        place.imshow(tile(block), interpolation="nearest")
        place.set_axis_off()
        name = "conv1" if num_towers == 1 else f"conv1, tower {tower}"
        place.set_title(f"{name}: {len(block)} kernels of 11×11×3", fontsize=9, color=INK)
    save(figure, file)


def tile(kernels: Floats) -> Floats:
    """(K, 3, h, w) -> (H, W, 3) in 0..1: kernels side by side, grey being zero."""
    count, _, height, width = kernels.shape
    rows = -(-count // FILTERS_IN_ROW)
    sheet = np.ones((rows * (height + 1) - 1, FILTERS_IN_ROW * (width + 1) - 1, 3), dtype=np.float32)
    for number, kernel in enumerate(kernels):
        y, x = number // FILTERS_IN_ROW * (height + 1), number % FILTERS_IN_ROW * (width + 1)
        largest = max(float(np.abs(kernel).max()), 1e-12)
        sheet[y : y + height, x : x + width] = 0.5 + 0.5 * kernel.transpose(1, 2, 0) / largest
    return sheet


def save(figure: Any, file: Path) -> None:
    """Write aside, rename, free."""
    import matplotlib.pyplot as plt

    aside = file.with_name(f".{file.name}.partial")
    try:
        figure.savefig(aside, format="png")
        aside.replace(file)
    finally:
        plt.close(figure)
        aside.unlink(missing_ok=True)
