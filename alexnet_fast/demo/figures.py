"""What the demo shows at its end: held-out images with the network's answers, and what conv1 has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from alexnet_fast.inference.trained_network import Guess, TrainedNetwork
from alexnet_fast.runs.figures import Floats, save_figure, tile

RIGHT, WRONG, OTHER = "#3f7fbf", "#c0504d", "#c8c8c8"
INK = "#333333"
SHOWN = 8
"""Images in the row."""
AFTER_ODDITIES = 4
"""Number, in its class, of the first image that is not drawn odd on purpose."""


def draw_guesses(network: TrainedNetwork, images: Path, file: Path) -> None:
    """A row of held-out images, each with its five most probable classes as bars; the true class in blue if it won.

    images: the folder val/, a folder for each class.  One image of each class is asked, wrong answers are shown first.
    """
    asked = [
        (folder.name, sorted(folder.iterdir())[AFTER_ODDITIES])
        for folder in sorted(images.iterdir())
        if folder.is_dir()
    ]
    answers = network.predict([image for _, image in asked])
    rows = [(*one, guesses) for one, guesses in zip(asked, answers, strict=True)]
    rows.sort(key=lambda row: row[2][0].name == row[0])
    matplotlib.use("Agg")
    figure, axes = plt.subplots(
        2, SHOWN, figsize=(15, 4.3), dpi=100, layout="constrained", height_ratios=(3, 2), squeeze=False
    )
    for column, (true, image, guesses) in enumerate(rows[:SHOWN]):
        top, below = axes[0, column], axes[1, column]
        top.imshow(np.asarray(square(Image.open(image))))
        top.set_axis_off()
        top.set_title(true, fontsize=11, color=INK)
        draw_bars(below, true, guesses)
    save_figure(figure, file)


def square(image: Image.Image, side: int = 224) -> Image.Image:
    """The center of an image in color, as the network sees it."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.convert("RGB").resize((side, side), box=(left, top, left + edge, top + edge))


def draw_bars(place: Any, true: str, guesses: list[Guess]) -> None:
    """The most probable class on top, labels on the bars."""
    for row, guess in enumerate(guesses):
        color = RIGHT if guess.name == true else WRONG if row == 0 else OTHER
        place.barh(row, guess.probability, color=color, height=0.8)
        place.text(0.02, row, f"{guess.label}  {guess.probability:.0%}", va="center", fontsize=9, color="black")
    place.set_xlim(0, 1)
    place.set_ylim(4.5, -0.5)
    place.set_xticks([])
    place.set_yticks([])
    for side in ("top", "right", "bottom"):
        place.spines[side].set_visible(False)


def draw_conv1(trained: Floats, initial: Floats, num_towers: int, file: Path) -> None:
    """conv1's kernels (maps, 3, 11, 11) beside what training has changed in them: weights minus initial weights."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(num_towers, 2, figsize=(15, 2.9 * num_towers), dpi=100, layout="constrained",
                                squeeze=False)  # fmt: skip
    for column, (title, kernels) in enumerate(
        (("weights", trained), ("weights minus initial weights", trained - initial))
    ):
        for tower, block in enumerate(np.split(kernels, num_towers)):
            place = axes[tower, column]
            place.imshow(tile(block), interpolation="nearest")
            place.set_axis_off()
            place.set_title(f"conv1, tower {tower}: {title}", fontsize=11, color=INK)
    save_figure(figure, file)
