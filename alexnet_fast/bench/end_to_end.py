"""Training from beginning to end on a CPU beside what people would pick: one epoch or more, each program in turns.

    python -m alexnet_fast.bench.end_to_end IMAGES SHARDS [--epochs 1] [--turns 1] [--json FILE]

IMAGES: a folder with train/CLASS and val/CLASS; SHARDS: what `alexnet-fast shard IMAGES` wrote.  In turns:

- `alexnet-fast train SHARDS`, recipe 2013;
- `bench.plain_training` on IMAGES: a plain port of the same network, DataLoader and Pillow;
- the same with timm's loader on SHARDS, where timm is installed.

Each is a process of its own, from its start to its end: imports, training, an evaluation and a checkpoint for each
epoch.  Network, initial weights, schedule and precision are the same.  Sharding, once for all epochs, is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_fast.bench.baseline_loaders import why_missing
from alexnet_fast.bench.measurement import Measurement, table
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.temporary import temporary_folder

OURS = "alexnet-fast train"
SETTINGS = ("batch_size=64", "lr_base_batch_size=64", "final_views=1")
"""Of the recipe, for two cores."""


def competitors(images: Path, shards: Path, settings: Sequence[str]) -> dict[str, list[str]]:
    """Name -> command, less its output's folder."""
    sets = [word for setting in settings for word in ("--set", setting)]
    plain = [sys.executable, "-m", "alexnet_fast.bench.plain_training"]
    train = [sys.executable, "-m", "alexnet_fast", "train", str(shards), "--recipe", "2013", "--device", "cpu"]
    found = {
        OURS: [*train, *sets],
        "plain PyTorch, DataLoader and Pillow": [*plain, str(images), "--reader", "folder", *sets],
    }
    reason = why_missing("timm")
    if reason is None:
        found["plain PyTorch, timm's loader"] = [*plain, str(shards), "--reader", "timm", *sets]
    else:
        print(f"Without timm: {reason}", flush=True)
    return found


def run(name: str, command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Seconds of the whole process, and what it says of itself; UserError where it failed."""
    folder.mkdir()
    begun = time.perf_counter()
    done = subprocess.run([*command, "--out", str(folder)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["without a message"]
        raise UserError(f"{name} ended with code {done.returncode}: {lines[-1]}")
    said = result_of_ours(folder) if name == OURS else json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, **said}


def result_of_ours(folder: Path) -> dict[str, Any]:
    """As `plain_training` prints it, from the run's result.json."""
    result = json.loads((folder / "result.json").read_text())
    images = result["steps"] * result["recipe"]["batch_size"]
    return {
        "images": images,
        "steps": result["steps"],
        "training_seconds": images / result["images_per_s"],
        "top1_error": result["center_view"]["top1_error"],
    }


def row_of(name: str, found: Sequence[Mapping[str, Any]]) -> Measurement:
    """img/s of the whole process: training images by all its seconds; medians over the turns."""
    rates = [one["images"] / one["seconds"] for one in found]
    rate = statistics.median(rates)
    details = {
        "seconds": statistics.median(one["seconds"] for one in found),
        "img/s while it trains": statistics.median(one["images"] / one["training_seconds"] for one in found),
        "steps": found[0]["steps"],
        "top-1 error": f"{statistics.median(one['top1_error'] for one in found):.1%}",
    }
    return Measurement(name, rate, (max(rates) - min(rates)) / 2 / rate, details)


def compare(images: Path, shards: Path, settings: Sequence[str], turns: int) -> list[Measurement]:
    """A row for each program."""
    commands = competitors(images, shards, settings)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with temporary_folder("end-to-end") as folder:
        for turn in range(turns):
            for number, (program, command) in enumerate(commands.items()):
                found[program].append(run(program, command, folder / f"{turn}-{number}"))
                print(f"{program}: {found[program][-1]}", flush=True)
    return [row_of(program, results) for program, results in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        rows = compare(asked.images, asked.shards, [*SETTINGS, f"epochs={asked.epochs:g}"], asked.turns)
    except UserError as error:
        sys.exit(str(error))
    print(table(rows))
    if asked.json:
        content = {"machine": describe_machine(), "epochs": asked.epochs, "turns": asked.turns}
        asked.json.write_text(json.dumps({**content, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
