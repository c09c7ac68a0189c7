"""Several processes against one: the same network, the same images, the same weights afterwards."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_fast.check.runner import CheckFailedError
from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.launcher import LostProcessError, launch
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.parallelism import Layout
from alexnet_fast.network.model import NETS, AlexNet, small, whole_state
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

STEPS = 6
IMAGES = 16
KILLED_AFTER = 20
"""Steps."""
KILLED_SECONDS = 30.0
"""In which the other processes of a killed one must have ended."""
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class World:
    """What a world of processes computed."""

    losses: list[float]
    weights: State


def train_in_world(mesh: Mesh, device: torch.device, captured: bool = False, steps: int = STEPS) -> World:
    """Some steps of a small net 145 in float32; every process takes its share of the same batches."""
    model = AlexNet(small(NETS["145"], divisor=8), exchange=mesh.make_exchange()).to(device)
    model.initialize(3)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    step = TrainingStep(model, optimizer, precision=Precision("fp32", torch.float32, ""), mesh=mesh)
    share = IMAGES // mesh.num_data_ranks
    if captured and (problem := step.capture(share, torch.float32)) is not None:
        raise AssertionError(problem)
    losses = []
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(IMAGES, 3, 67, 67, generator=generator) * 60
        labels = torch.randint(10, (IMAGES,), generator=generator)
        own = slice(mesh.data_rank * share, (mesh.data_rank + 1) * share)
        batch = Batch(images[own].to(device).contiguous(memory_format=torch.channels_last), labels[own].to(device))
        loss = step(batch, step=number, seed=5).loss
        losses.append(float(mesh.sum_over_replicas(loss)) / mesh.num_replicas)
    step.drain()
    return World(losses, whole_state(model))


def difference(one: World, other: World) -> float:
    """The largest, relative to the largest weight of each tensor."""
    return max(
        float((one.weights[name] - tensor).abs().max() / tensor.abs().max().clamp_min(1e-12))
        for name, tensor in other.weights.items()
    )


def compare_worlds(device: str, num_processes: int, *, captured: bool = False) -> dict[str, float]:
    """Towers and replicas -> how far their weights are from those of one process."""
    one = train_in_world(Mesh(), torch.device(device, 0) if device == "cuda" else torch.device(device))
    found = {}
    for split in (True, False):
        layout = Layout(torch.device(device), num_processes, split, "")
        found["towers" if split else "replicas"] = difference(launch(layout, train_in_world, captured), one)
    return found


def compare_two_by_two(device: str, *, steps: int, captured: bool = False) -> str:
    """Two replicas of two towers, whose exchanges and averages are under way together, against one process."""
    one = train_in_world(Mesh(), torch.device(device, 0) if device == "cuda" else torch.device(device), False, steps)
    four = launch(Layout(torch.device(device), 4, True, ""), train_in_world, captured, steps)
    apart = max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(four.losses, one.losses, strict=True))
    figures = f"{steps} steps of 2 × 2 processes: losses within {apart:.1e} of one process"
    if not apart < 1e-2:
        raise CheckFailedError(figures)
    return figures


def train_until_killed(mesh: Mesh, device: torch.device, note: Path) -> None:
    """Steps without end; after a few the last rank kills itself and leaves the time in `note`."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, generator=generator).to(device)
    for number in range(10**9):
        mesh.sum_over_replicas(values.clone()).sum().item()
        if number == KILLED_AFTER and mesh.rank == mesh.world_size - 1:
            note.write_text(str(time.monotonic()))  # the same clock in every process of a machine
            os.kill(os.getpid(), signal.SIGKILL)


def end_after_a_killed_rank(device: str, folder: Path) -> str:
    """How soon the others are ended, and that the message names what happened."""
    note = folder / "killed"
    note.unlink(missing_ok=True)
    try:
        launch(Layout(torch.device(device), 2, False, ""), train_until_killed, note)
    except LostProcessError as error:
        seconds, told = time.monotonic() - float(note.read_text()), str(error)
    else:
        raise CheckFailedError("a rank was killed, and its world came to an end as if nothing had happened")
    if seconds > KILLED_SECONDS:
        raise CheckFailedError(f"after a rank was killed the others lasted {seconds:.0f} s")
    return f"a killed rank ends the others in {seconds:.1f} s: {told}"
