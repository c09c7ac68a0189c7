"""Training steps on a CPU beside other work: img/s of net 167 beside 0, 1 and 2 busy loops, two checkouts in turns.

    python -m alexnet_fast.bench.contention [--base CHECKOUT] [--seconds 4] [--rounds 3] [--json FILE]

Each turn is a process of its own, so that each takes the OpenMP setting that it is given.  A busy loop is a Python
process that counts.  `--base`: an older checkout, measured in the same turns, with OpenMP's own setting.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from alexnet_fast.distributed.machine import describe_machine

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import sys, time
import torch
from alexnet_fast.bench.model import batch_of, make_step
from alexnet_fast.config.precision import choose_precision
from alexnet_fast.network.model import NETS
device = torch.device("cpu")
step = make_step(NETS["167"], device, choose_precision(device, sys.argv[3]))
batch = batch_of(64, device, torch.float32)
numbers = iter(range(10**9))
for _ in range(int(sys.argv[2])):
    step(batch, step=next(numbers), seed=0)
count, start = 0, time.perf_counter()
while time.perf_counter() - start < float(sys.argv[1]):
    step(batch, step=next(numbers), seed=0)
    count += 1
print(64 * count / (time.perf_counter() - start))
"""
OWN = {"GOMP_SPINCOUNT": "20000"}
SETTINGS = {
    "OpenMP's own waiting": {},
    "GOMP_SPINCOUNT=20000": OWN,
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def turn(checkout: Path, setting: dict[str, str], busy: int, seconds: float, precision: str) -> float:
    """img/s in one new process beside `busy` loops."""
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", *OWN)}
    environment |= {"PYTHONPATH": str(checkout), **setting}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, "-c", WORK, str(seconds), "2", precision]
        finished = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    return float(finished.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    candidates = {f"now, {name}": (ROOT, setting) for name, setting in SETTINGS.items()}
    if options.base is not None:
        candidates = {f"{options.base.name}, OpenMP's own waiting": (options.base.resolve(), {}), **candidates}
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for busy in options.busy:
            for name, (checkout, setting) in candidates.items():
                rate = turn(checkout, setting, busy, options.seconds, options.precision)
                found.setdefault((name, busy), []).append(rate)
                print(f"{name:40} beside {busy}: {rate:6.1f} img/s", flush=True)
    rows = [
        {"name": name, "busy loops": busy, "img/s": statistics.median(rates), "all": rates}
        for (name, busy), rates in found.items()
    ]
    for row in rows:
        print(f"{row['name']:40} beside {row['busy loops']}: {row['img/s']:6.1f} img/s (median)")
    if options.json is not None:
        machine = describe_machine()
        options.json.write_text(json.dumps({"part": "busy", "machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
