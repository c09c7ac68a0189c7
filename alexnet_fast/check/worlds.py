"""Several processes against one: the same network, the same images, the same weights afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.launcher import launch
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.parallelism import Layout
from alexnet_fast.network.model import NETS, AlexNet, small, whole_state
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

STEPS = 6
IMAGES = 16
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class World:
    """What a world of processes computed."""

    losses: list[float]
    weights: State


def train_in_world(mesh: Mesh, device: torch.device, captured: bool = False) -> World:
    """A few steps of a small net 145 in float32; every process takes its share of the same batches."""
    model = AlexNet(small(NETS["145"], divisor=8), exchange=mesh.make_exchange()).to(device)
    model.initialize(3)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    step = TrainingStep(model, optimizer, precision=Precision("fp32", torch.float32, ""), mesh=mesh)
    share = IMAGES // mesh.num_data_ranks
    if captured and (problem := step.capture(share, torch.float32)) is not None:
        raise AssertionError(problem)
    losses = []
    for number in range(STEPS):
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
