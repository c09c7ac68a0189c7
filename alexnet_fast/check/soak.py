"""A long run of a small network on a CPU, stopped and killed at random moments: does anything grow?

    python -m alexnet_fast.check.soak --json benchmarks/soak-cpu.json [--epochs 200] [--stops 10] [--seed 0]

A drawn data set is trained on by `alexnet-fast train`, with an evaluation and a checkpoint after each epoch, a figure
now and then.  After random times the process gets SIGTERM, which saves, or SIGKILL, which does not, in turns; then it
resumes.  Every two seconds its memory, threads, open files and the bytes of its run's folder are noted.  At the end
the quarters of each life are compared, and the last life with the others: exit code 1 where something grew, or an
epoch is in metrics.jsonl twice, or a file was left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from alexnet_fast.demo.data import DemoData
from alexnet_fast.demo.tour import draw_shards
from alexnet_fast.distributed.machine import describe_machine

EVERY = 2.0
"""Seconds between two samples."""
WARM_UP = 4
"""Epochs of a life that are not compared: imports, the first evaluation, the first figures."""
SETTINGS = ("width_divisor=16", "batch_size=16", "lr_base_batch_size=16", "precision=fp32", "shuffle_buffer=200")
TOLERANCES = {"rss_mb": 10.0, "threads": 0.0, "files": 0.0, "run_mb": 1.0}
"""What goes up and down by so much without growing: batches, figures, evaluations, a run's figures."""
LEAST = 8
"""Samples of a life that is compared, and epochs: a busy machine may give it many samples of its first few epochs."""


@dataclass(frozen=True)
class Sample:
    """One look at the process."""

    seconds: float
    """Since the first start."""
    life: int
    """Which start of the process."""
    rss_mb: float
    """Resident, without the pages of mapped files."""
    threads: int
    files: int
    """Open descriptors."""
    run_mb: float
    """Of the run's folder, metrics and TensorBoard excepted, which have a line for each epoch."""
    epochs: int
    """That metrics.jsonl has an evaluation of."""


def look(process: int, run: Path, life: int, begun: float) -> Sample | None:
    """None where the process has ended."""
    proc = Path("/proc") / str(process)
    try:
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        resident = int(status["RssAnon"].split()[0]) / 1024
        threads, files = int(status["Threads"]), sum(1 for _ in (proc / "fd").iterdir())
    except (OSError, KeyError):  # a process that has ended has no RssAnon
        return None
    seconds = round(time.monotonic() - begun, 1)
    return Sample(seconds, life, round(resident, 1), threads, files, size_mb(run), len(evaluations(run)))


def size_mb(run: Path) -> float:
    """Of the files that do not grow by design."""
    files = (path for path in run.rglob("*") if "metrics" not in path.name and "tfevents" not in path.name)
    return round(sum(size_of(path) for path in files) / 1e6, 2)


def size_of(path: Path) -> int:
    """In bytes; 0 where it was renamed or removed since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl that are of an evaluation."""
    file = run / "metrics.jsonl"
    if not file.exists():
        return []
    lines = file.read_text().split("\n")[:-1]  # what has no end yet is being written
    return [record for line in lines if (record := json.loads(line))["kind"] == "val" and record["views"] == 1]


def live(command: list[str], run: Path, life: int, begun: float, stop: tuple[int, float] | None) -> list[Sample]:
    """Start the process, and give it a signal after some seconds; what was seen of it until its end."""
    found: list[Sample] = []
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while process.poll() is None:
            time.sleep(EVERY)
            sample = look(process.pid, run, life, begun)
            if sample is not None:
                found.append(sample)
            if stop is not None and time.monotonic() - started > stop[1]:
                process.send_signal(stop[0])
                process.wait(timeout=120)
        errors = process.stderr.read()
    wanted = {0} if stop is None else {0, -stop[0], 128 + stop[0]}
    if process.returncode not in wanted:
        raise SystemExit(f"life {life} ended with code {process.returncode}: {errors[-2000:]}")
    return found


def grown(samples: list[Sample], epochs: int) -> list[str]:
    """What grows from each quarter of a life to the next: a single step, as at the first figure, does not.

    The evaluation at the end of all epochs is no part of it.
    """
    problems = []
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.life, []).append(sample)
    for life, seen in lives.items():
        steady = [sample for sample in seen if seen[0].epochs + WARM_UP <= sample.epochs < epochs]
        if len(steady) < LEAST or steady[-1].epochs - steady[0].epochs < LEAST:
            continue
        edges = [len(steady) * place // 4 for place in range(5)]
        for name, tolerance in TOLERANCES.items():
            values = [getattr(sample, name) for sample in steady]
            medians = [statistics.median(values[start:end]) for start, end in pairwise(edges)]
            if all(later > earlier + tolerance for earlier, later in pairwise(medians)):
                problems.append(f"life {life}: {name} grew, its quarters have {medians}")
    return problems + higher(lives)


def higher(lives: dict[int, list[Sample]]) -> list[str]:
    """What the last life holds more of than the most that another one did."""
    *others, last = ([sample.rss_mb for sample in seen] for seen in lives.values())
    most = max((max(seen) for seen in others), default=max(last))
    return [f"the last life holds {max(last):g} MB, others {most:g}"] if max(last) > 1.25 * most else []


def kept_twice(run: Path) -> list[str]:
    """What is wrong with metrics.jsonl and with what lies in the run's folder."""
    epochs = Counter(record["epoch"] for record in evaluations(run))
    problems = [f"epoch {epoch} is in metrics.jsonl {count} times" for epoch, count in epochs.items() if count != 1]
    left = [str(path.relative_to(run)) for path in run.rglob("*") if path.name.endswith((".tmp", ".part"))]
    return problems + [f"left behind: {name}" for name in left]


def soak(folder: Path, *, epochs: int, stops: int, longest: float, seed: int) -> dict[str, Any]:
    """Everything that was seen."""
    shards, run = draw_shards(folder, DemoData(num_train=20, num_val=4)), folder / "run"
    command = [sys.executable, "-m", "alexnet_fast", "train", str(shards), "--out", str(run), "--device", "cpu"]
    sets = [word for setting in (*SETTINGS, f"epochs={epochs}") for word in ("--set", setting)]
    chance = random.Random(seed)
    begun = time.monotonic()
    samples: list[Sample] = []
    signals = []
    for life in range(stops + 1):
        resume = ["--resume"] if (run / "recipe.toml").exists() else []
        number = (signal.SIGTERM, signal.SIGKILL)[life % 2]
        stop = (number, chance.uniform(5.0, longest)) if life < stops else None
        samples += live([*command, *(sets if not resume else []), *resume], run, life, begun, stop)
        if (run / "result.json").exists():  # the end came before the stop
            break
        if stop is not None:
            signals.append({"signal": signal.Signals(number).name, "after_s": round(stop[1], 1)})
            print(f"life {life}: {signals[-1]}, {samples[-1]}", flush=True)
    return {
        "machine": describe_machine(),
        "seconds": round(time.monotonic() - begun),
        "epochs": epochs,
        "lives": samples[-1].life + 1,
        "stops": signals,
        "problems": grown(samples, epochs) + kept_twice(run),
        "samples": [asdict(sample) for sample in samples],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--longest", type=float, default=240.0, help="most seconds until a stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alexnet-fast-soak-") as name:
        found = soak(Path(name), epochs=asked.epochs, stops=asked.stops, longest=asked.longest, seed=asked.seed)
    if asked.json:
        asked.json.write_text(json.dumps(found) + "\n")
    print(f"{found['seconds']} s, {found['epochs']} epochs, {found['lives']} starts")
    for problem in found["problems"]:
        print(problem)
    sys.exit(1 if found["problems"] else 0)


if __name__ == "__main__":
    main()
