"""What two GPUs would reach, estimated from one: a tower's step alone, and the bytes that the towers exchange."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alexnet_fast.bench.measurement import Measurement
from alexnet_fast.bench.model import batch_of, make_step, memory, time_rate
from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.parallelism import bytes_as_towers
from alexnet_fast.network.exchange import Wait, layout
from alexnet_fast.network.model import AlexNet, Architecture
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

LINKS = {"NVLink 4": 450e9, "PCIe 5": 50e9}
"""Bytes per second in one direction: of an H100's or H200's NVLink as specified, of PCIe 5 ×16 as usually measured."""
ASSUMPTIONS = (
    "Assumed: both GPUs take as long as this one; every exchange waits for its last byte (in truth the images\n"
    "travel during the step before, conv3's maps and the gradients during products); a link carries, in one direction, "
    + ", ".join(f"{speed / 1e9:.0f} GB/s ({name})" for name, speed in LINKS.items())
    + "."
)


class EchoExchange:
    """Tower 0 with an exchange that returns its own tensor at once: the network without communication time."""

    towers = (0,)

    def start(self, own: torch.Tensor, peer_shape: torch.Size) -> Wait:
        if own.shape == peer_shape:
            return lambda: own
        return lambda: torch.zeros(peer_shape, dtype=own.dtype, device=own.device).contiguous(memory_format=layout(own))


def measure_towers(
    architecture: Architecture, *, device: torch.device, batch_sizes: Sequence[int], precision: Precision
) -> list[Measurement]:
    """For each batch size: both towers on this device, one tower on it, and what follows for two such devices."""
    rows = []
    for batch_size in batch_sizes:
        # Both captured as CUDA graphs, as in training: an eager step would hide the cost of the split.
        rate, _ = time_step(make_step(architecture, device, precision), batch_size)
        memory(device)
        tower_rate, spread = time_step(make_tower_step(architecture, device, precision), batch_size)
        seconds, sent = batch_size / tower_rate, bytes_as_towers(architecture, batch_size, 2, precision.dtype)
        details: dict[str, str | float | int] = {"batch size": batch_size, "ms": seconds * 1e3, "MB sent": sent / 1e6}
        details |= memory(device)
        for link, speed in LINKS.items():
            both = batch_size / (seconds + sent / speed)
            details[f"two, {link}"] = f"{both:,.0f}/s, {both / rate:.2f}×"
        rows.append(Measurement("one tower, training step without exchange", tower_rate, spread, details))
    return rows


def make_tower_step(architecture: Architecture, device: torch.device, precision: Precision) -> TrainingStep:
    """The step of a process that holds tower 0."""
    with device:
        model = AlexNet(architecture, exchange=EchoExchange())
    model.initialize(0)
    optimizer = SGD(model)
    optimizer.set_rates(weights=1e-6, biases=1e-6)
    return TrainingStep(model, optimizer, precision=precision)


def time_step(step: TrainingStep, batch_size: int) -> tuple[float, float]:
    """(img/s, spread)"""
    batch = batch_of(batch_size, step.device, step.dtype)
    choose_convolutions(step, batch_size)
    if step.device.type == "cuda":
        step.capture(batch_size, step.dtype)
    number = iter(range(10**9))
    return time_rate(batch_size, lambda: step(batch, step=next(number), seed=0), step.device)
