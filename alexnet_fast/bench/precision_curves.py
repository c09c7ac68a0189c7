"""Loss curves of the same steps on the same images in float32, bfloat16 and float16 with loss scaling.

    python -m alexnet_fast.bench.precision_curves SHARDS --png precision.png --json precision.json

Net 167 with a quarter of its maps and units (so that a CPU is done in minutes), recipe 2013's rates for batch 64.  All
runs have the same initialization, images, crops, colors and dropout masks, but for the last: float32 with another
seed, to show how far apart two runs are that differ by chance alone.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from alexnet_fast.config.precision import DTYPES, Precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.distributed.devices import use_device
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.network.model import AlexNet
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

BATCH = 64
WINDOW = 25
"""Steps over which the curves are averaged."""


@dataclass(frozen=True)
class Run:
    """One curve."""

    name: str
    precision: str
    seed: int
    losses: list[float]


def train(dataset: Dataset, device: torch.device, precision: str, seed: int, num_steps: int) -> list[float]:
    """The loss of each step."""
    recipe = load_recipe("2013", ["width_divisor=4", f"batch_size={BATCH}", f"lr_base_batch_size={BATCH}"])
    model = AlexNet(recipe.architecture(len(dataset.classes))).to(device)
    model.initialize(seed)
    optimizer = SGD(model)
    optimizer.set_rates(weights=recipe.lr_weights[0], biases=recipe.lr_biases[0])
    step = TrainingStep(model, optimizer, precision=Precision(precision, DTYPES[precision], "as asked"))
    loader = TrainingLoader(dataset, batch_size=BATCH, device=device, seed=seed)
    losses: list[torch.Tensor] = []
    epoch = 0
    while len(losses) < num_steps:
        for batch in loader.epoch(epoch):
            losses.append(step(batch, step=len(losses), seed=seed).loss)
            if len(losses) == num_steps:
                break
        epoch += 1
    step.drain()
    loader.close()
    return [float(loss) for loss in losses]


def smooth(losses: list[float]) -> np.ndarray:
    """Means over `WINDOW` steps."""
    return np.convolve(losses, np.full(WINDOW, 1 / WINDOW), mode="valid")


def draw(runs: list[Run], file: Path) -> None:
    """The curves as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        curve = smooth(run.losses)
        dashed = run.seed != runs[0].seed
        axes.plot(np.arange(len(curve)) + WINDOW, curve, label=run.name, linestyle="--" if dashed else "-", lw=1.5)
    axes.set(xlabel="step", ylabel=f"training loss, mean of {WINDOW} steps")
    axes.set_title("The same steps in three precisions", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(min=WINDOW), default=300, show_default=True)
@click.option("--png", type=click.Path(path_type=Path), default=Path("precision.png"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None)
@click.option("--device", default=None)
def main(shards: Path, steps: int, png: Path, json_file: Path | None, device: str | None) -> None:
    """Train on SHARDS in each precision and compare."""
    dataset, place = Dataset.load(shards), use_device(device)
    runs: list[Run] = []
    for name, precision, seed in (
        ("float32", "fp32", 0),
        ("bfloat16", "bf16", 0),
        ("float16, scaled", "fp16", 0),
        ("float32, another seed", "fp32", 1),
    ):
        runs.append(Run(name, precision, seed, train(dataset, place, precision, seed, steps)))
        click.echo(f"{name}: last {WINDOW} steps {np.mean(runs[-1].losses[-WINDOW:]):.4f}")
    reference = smooth(runs[0].losses)
    apart = {run.name: float(np.abs(smooth(run.losses) - reference).mean()) for run in runs[1:]}
    for name, distance in apart.items():
        click.echo(f"{name}: {distance:.4f} from float32 on average")
    draw(runs, png)
    if json_file:
        content = {
            "command": " ".join(["python", *sys.argv]),
            "machine": describe_machine(),
            "mean distance from float32": apart,
            "losses": {run.name: [round(loss, 4) for loss in run.losses] for run in runs},
        }
        json_file.write_text(json.dumps(content, default=str) + "\n")


if __name__ == "__main__":
    main()
