"""A run's figures: its curves, and what conv1 has learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_fast.config.recipe import Recipe
from alexnet_fast.network.model import AlexNet
from alexnet_fast.runs.evaluations import evaluations
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools import atomic
from alexnet_fast.tools.messages import counted

Floats = npt.NDArray[np.float32]

FILTERS_IN_ROW = 16
LEAST_WIDTH = 4.0
"""Inches: a title has room."""
FEW = 30
"""Points of a curve up to which each is marked: a single one would not be seen otherwise, hundreds hide the line."""
INK = "#333333"
TRAIN, VALIDATION, TEN_VIEWS = "#8c8c8c", "#c0504d", "#3f7fbf"


def draw_report(run: Path, conv1: Floats, num_towers: int, initial: Floats | None) -> list[Path]:
    """Draw figures/curves.png, figures/conv1.png and figures/conv1-learned.png of a run; the files.

    conv1: (maps, 3, 11, 11), the weights of conv1, tower 0's first.  initial: what they were before the first step; the
    last figure shows the difference, which a short training's weights hide; None: not known, there is no such figure.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder = RunFolder(run)
    files = [folder.figures / name for name in ("curves.png", "conv1.png", "conv1-learned.png")]
    draw_curves(folder.read_metrics(), files[0])
    draw_filters(conv1, num_towers, files[1])
    if initial is None:
        return files[:2]
    draw_filters(conv1 - initial, num_towers, files[2], "conv1 minus its initial weights")
    return files


def record_conv1(folder: RunFolder, epoch: int, conv1: Floats) -> None:
    """Keep conv1's weights after an epoch (0: before the first step) for the report; 70 kB each, as float16."""
    folder.conv1.mkdir(exist_ok=True)
    file = folder.conv1 / f"epoch-{epoch:06d}.npy"
    with atomic.writing(file) as opened:
        np.save(opened, np.asarray(conv1, dtype=np.float16))


def conv1_history(folder: RunFolder) -> dict[int, Floats]:
    """Epoch -> what `record_conv1` kept; what cannot be read is missing."""
    found: dict[int, Floats] = {}
    for file in sorted(folder.conv1.glob("epoch-*.npy")):
        with suppress(OSError, ValueError, EOFError):
            found[int(file.stem.removeprefix("epoch-"))] = np.load(file, allow_pickle=False)
    return found


def conv1_before(history: dict[int, Floats], recipe: Recipe, num_classes: int) -> Floats | None:
    """conv1's weights before the first step: those that were kept, else by the recipe's seed.

    None where they are not known: a run that started from `init` had that file's weights.
    """
    if 0 in history:
        return history[0].astype(np.float32)
    return None if recipe.init else initial_conv1(recipe, num_classes)


def initial_conv1(recipe: Recipe, num_classes: int) -> Floats:
    """conv1's random weights before the first step, which the recipe's seed fixes."""
    model = AlexNet(recipe.architecture(num_classes), seed=recipe.seed)
    weights: Floats = model.get_parameter("conv1.weight").detach().numpy()
    return weights


def draw_curves(metrics: Sequence[dict[str, Any]], file: Path) -> None:
    """Error and loss over the epochs, training (with dropout and random crops) and validation."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    train = [line for line in metrics if line["kind"] == "train"]
    evaluated = evaluations(metrics)
    last = max((line["epoch"] for lines in (train, *evaluated.values()) for line in lines), default=1.0)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), dpi=100, layout="constrained")
    for place, (key, val_key, title) in zip(
        axes, (("error", "top1_error", "top-1 error"), ("loss", "loss", "cross-entropy")), strict=True
    ):
        plot(place, train, key, "training, with dropout and random crops", color=TRAIN, linewidth=1, markersize=5,
             marker="." if len(train) <= FEW else "")  # fmt: skip
        for number, (way, lines) in enumerate(evaluated.items()):
            if way.views == 1 and number == 0:
                style: dict[str, Any] = {"color": VALIDATION, "linewidth": 1.5, "markersize": 4}
                plot(place, lines, val_key, way.curve, marker="o" if len(lines) <= FEW else "", **style)
            else:
                # Hollow and around the last point of the center view, which may have the same value.
                style = {"color": TEN_VIEWS, "markersize": 9, "fillstyle": "none", "markeredgewidth": 1.5}
                marker = "D" if way.views == 10 else "s"
                plot(place, lines, val_key, way.curve, marker=marker, linestyle="", **style)
        place.set_title(title, color=INK)
        place.set_xlabel("epoch")
        place.set_xlim(0, last * 1.03)
        # From 0: a scale that a short run's few values fill would make much of nothing.
        place.set_ylim(0, 1.08 * max((y for line in place.lines for y in line.get_ydata() if y > 0), default=1))
        mark_rates(place, train)
        place.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=last >= 2))
        place.xaxis.set_major_formatter("{x:g}")
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    axes[0].set_ylim(0, 1)
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if axes[0].lines:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, file)


def plot(place: Any, lines: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    """A curve; nothing, in the legend too, where there is nothing to draw."""
    if lines:
        place.plot(*series(lines, key), label=label, clip_on=False, **style)


def series(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(epochs, values); a value that was not finite is null in the file and a gap in the curve."""
    return [line["epoch"] for line in lines], [math.nan if line[key] is None else line[key] for line in lines]


def mark_rates(place: Any, train: Sequence[dict[str, Any]]) -> None:
    """A thin line where the weights' learning rate changed, with the new rate."""
    for before, after in pairwise(train):
        if after["lr_weights"] < before["lr_weights"]:
            place.axvline(before["epoch"], color=INK, linewidth=0.6, linestyle=":")
            place.annotate(
                f"ε {after['lr_weights']:g}",
                (before["epoch"], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )


def draw_filters(conv1: Floats, num_towers: int, file: Path, what: str = "conv1") -> None:
    """conv1's kernels as the paper's figure 3 shows them, a block for each tower; each kernel with its own contrast."""
    import matplotlib.pyplot as plt

    blocks = np.split(conv1, num_towers)
    columns = min(FILTERS_IN_ROW, len(blocks[0]))
    rows = -(-len(blocks[0]) // columns)
    side = min(1.0, max(9 / FILTERS_IN_ROW, LEAST_WIDTH / columns))
    size = (max(LEAST_WIDTH, side * columns), num_towers * (side * rows + 0.35) + 0.1)
    figure, axes = plt.subplots(num_towers, 1, figsize=size, dpi=100, layout="constrained", squeeze=False)
    for tower, (place, block) in enumerate(zip(axes[:, 0], blocks, strict=True)):
        place.imshow(tile(block), interpolation="nearest")
        place.set_axis_off()
        name = what if num_towers == 1 else f"{what}, tower {tower}"
        place.set_title(f"{name}: {counted(len(block), 'kernel')} of 11×11×3", fontsize=9, color=INK)
    save_figure(figure, file)


def tile(kernels: Floats) -> Floats:
    """(K, 3, h, w) -> (H, W, 3) in 0..1: kernels side by side, gray being zero."""
    count, _, height, width = kernels.shape
    columns = min(FILTERS_IN_ROW, count)
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), dtype=np.float32)
    for number, kernel in enumerate(kernels):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        largest = max(float(np.abs(kernel).max()), 1e-12)
        sheet[y : y + height, x : x + width] = 0.5 + 0.5 * kernel.transpose(1, 2, 0) / largest
    return sheet


def save_figure(figure: Any, file: Path) -> None:
    """Write a figure as PNG and free it."""
    import matplotlib.pyplot as plt

    try:
        with atomic.writing(file) as opened:
            figure.savefig(opened, format="png")
    finally:
        plt.close(figure)
