"""Where a training step's time goes: each layer, the loss, the update and the rest, beside the device's own limits.

On a GPU all times are the device's, between events on its stream: the host queues a whole step ahead and waits for
nothing in between.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from alexnet_fast.bench.measurement import Measurement
from alexnet_fast.bench.model import batch_of, make_step
from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.clock import clock_of
from alexnet_fast.network.dropout import DropoutKey, step_key
from alexnet_fast.network.model import Architecture, loss_and_errors
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.training.convolution_choice import choose_convolutions
from alexnet_fast.training.train_step import TrainingStep

ROUNDS = 7
"""Each measures the device's limits, every part, and the whole step, so that other work hits all of them alike."""
UPDATE_BYTES = 4 * 4 + 2
"""Of one weight: the weight and its momentum read and written in float32; its gradient read in half precision."""


@dataclass
class Rounds:
    """Seconds by part, one number for each round; numbers in the output of each layer."""

    forward: dict[str, list[float]] = field(default_factory=dict)
    back: dict[str, list[float]] = field(default_factory=dict)
    """Back there are also "loss" and "update"."""
    step: list[float] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    flops: list[float] = field(default_factory=list)
    """The device's best product of each round, FLOP/s."""
    bandwidths: list[float] = field(default_factory=list)
    """The device's best pass over memory of each round, bytes/s."""


def measure_layers(
    architecture: Architecture, *, device: torch.device, batch_size: int, precision: Precision
) -> list[Measurement]:
    """Each part's time, its spread over the rounds, and what the device's own best rates would allow.

    The limit is the time that the fastest product and the fastest pass over memory of all rounds leave, and never
    longer than the part itself took in its fastest round.
    """
    rounds = take_rounds(architecture, device, batch_size, precision)
    flops, bandwidth = max(rounds.flops), max(rounds.bandwidths)
    macs = layer_multiplications(architecture)
    numbers_before = 3 * architecture.image_size**2 * batch_size
    whole = statistics.median(rounds.step)
    rows = []
    for part in (*rounds.sizes, "loss", "update"):
        back = rounds.back[part]
        forward = rounds.forward.get(part, [0.0] * len(back))
        both = [one + other for one, other in zip(forward, back, strict=True)]
        # Back there are two products, for the maps and for the weights; for conv1 only the latter.
        flop = (2 if part == "conv1" else 3) * 2 * macs.get(part, 0) * batch_size
        moved = 0.0
        if part in rounds.sizes:
            # Least traffic: maps in and out; back, maps in, gradients in and out; weights twice, their gradient once.
            weights = torch.Size(architecture.weight_shapes.get(part, (0,))).numel()
            moved = (3 * numbers_before + 2 * rounds.sizes[part] + 3 * weights) * precision.dtype.itemsize
            numbers_before = rounds.sizes[part]
        elif part == "update":
            parameters = sum(torch.Size(shape).numel() + shape[0] for shape in architecture.weight_shapes.values())
            half = precision.dtype.itemsize == 2  # then a working copy is written too
            moved = parameters * (UPDATE_BYTES + 2 if half else 5 * 4)
        seconds = statistics.median(both)
        details: dict[str, str | float | int] = {
            "forward ms": statistics.median(forward) * 1e3,
            "back ms": statistics.median(back) * 1e3,
            "share": f"{seconds / whole:.0%}",
        }
        if moved:
            limit = min(max(flop / flops, moved / bandwidth), *both)
            details |= {"TFLOP/s": flop / seconds / 1e12, "GB/s": moved / seconds / 1e9}
            details |= {"limit ms": limit * 1e3, "of the limit": f"{limit / seconds:.0%}"}
        rows.append(Measurement(part, batch_size / seconds, spread(both), details))
    return [*rows, *totals(rows, rounds, batch_size)]


def totals(rows: list[Measurement], rounds: Rounds, batch_size: int) -> list[Measurement]:
    """What of the whole step is in no part; the whole step."""
    whole = statistics.median(rounds.step)
    parts = sum(float(row.details[key]) for row in rows for key in ("forward ms", "back ms"))
    rest = whole * 1e3 - parts
    limits = {"device TFLOP/s": max(rounds.flops) / 1e12, "device GB/s": max(rounds.bandwidths) / 1e9}
    step = Measurement("whole step", batch_size / whole, spread(rounds.step), {"ms": whole * 1e3, **limits})
    details: dict[str, str | float | int] = {"ms": rest, "share": f"{rest / 1e3 / whole:.0%}"}
    return [Measurement("everything else", 1e3 * batch_size / max(rest, 1e-3), 0.0, details), step]


def spread(seconds: list[float]) -> float:
    """Half the range, as a fraction of the median."""
    return (max(seconds) - min(seconds)) / 2 / statistics.median(seconds)


def layer_multiplications(architecture: Architecture) -> dict[str, int]:
    """Layer as `AlexNet.forward` calls it -> multiply-adds for one image."""
    conv1, _, conv2, _, conv34, conv5, _ = architecture.map_sizes
    sides = {"conv1": conv1, "conv2": conv2, "conv3": conv34, "conv4": conv34, "conv5": conv5}
    shapes = architecture.weight_shapes
    return {layer: torch.Size(shape).numel() * sides.get(layer, 1) ** 2 for layer, shape in shapes.items()}


def take_rounds(architecture: Architecture, device: torch.device, batch_size: int, precision: Precision) -> Rounds:
    """Some rounds, after one that does not count."""
    step = make_step(architecture, device, precision)
    batch = batch_of(batch_size, device, precision.dtype)
    choose_convolutions(step, batch_size)
    limits = DeviceLimits(device, precision.dtype)
    rounds = Rounds()
    for number in range(ROUNDS + 1):
        if number == 1:
            rounds = Rounds()
        rounds.flops.append(limits.flops())
        rounds.bandwidths.append(limits.bandwidth())
        time_parts(step, batch, device, rounds)
        rounds.step.append(seconds_of(lambda number=number: step(batch, step=number, seed=0), device))  # type: ignore[misc]
    return rounds


def time_parts(step: TrainingStep, batch: Batch, device: torch.device, rounds: Rounds) -> None:
    """One step, part by part: forward, the time between two observations; back, between two gradients' arrivals."""
    clock = clock_of(device)
    counts: list[tuple[dict[str, list[float]], str] | None] = []
    """What the time until each mark counts as."""
    inputs: dict[str, torch.Tensor] = {}
    rounds.sizes.clear()

    def note(times: dict[str, list[float]], part: str) -> None:
        clock.mark()
        counts.append((times, part))

    def pass_over() -> None:
        clock.mark()
        counts.append(None)

    def observe(layer: str, output: torch.Tensor) -> None:
        previous = list(rounds.sizes)[-1] if rounds.sizes else ""
        rounds.sizes[layer] = output.numel()
        note(rounds.forward, layer)
        if previous:  # the gradient of this output's input arrives when this layer is done
            inputs[previous].register_hook(lambda gradient: note(rounds.back, layer))  # type: ignore[no-untyped-call]
        inputs[layer] = output

    key = DropoutKey(torch.full((), step_key(0, 0), dtype=torch.int64, device=device), 0)
    clock.lead()
    pass_over()
    logits = step.model(batch.images, key, weights=step.working, observe=observe, convolutions=step.convolutions)
    pass_over()
    loss, _ = loss_and_errors(logits, batch.labels)
    note(rounds.forward, "loss")
    logits.register_hook(lambda gradient: note(rounds.back, "loss"))
    pass_over()
    loss.backward()  # type: ignore[no-untyped-call]
    note(rounds.back, next(iter(rounds.sizes)))
    step.optimizer.step(
        {name: weight.grad for name, weight in step.working.items() if weight.grad is not None},
        gradient_scale=torch.ones((), device=device),
        alive=torch.ones((), dtype=torch.bool, device=device),
        working={name: weight for name, weight in step.working.items() if weight is not step.parameters[name]},
    )
    note(rounds.back, "update")
    for counted, seconds in zip(counts[1:], clock.between(), strict=True):
        if counted is not None:
            times, part = counted
            times.setdefault(part, []).append(seconds)
    for weight in step.working.values():
        weight.grad = None


class DeviceLimits:
    """The fastest of some matrix products, and of some passes over more memory than a cache holds."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        sides = (4096, 8192, 16384) if device.type == "cuda" else (1024, 2048)
        # Square ones, and one as tall and narrow as a convolution's.
        shapes = [(side, side, side) for side in sides] + [(8 * sides[1], sides[0] // 2, sides[0] // 4)]
        self.device = device
        self.products = [
            (torch.randn(rows, inner, device=device).to(dtype), torch.randn(inner, columns, device=device).to(dtype))
            for rows, inner, columns in shapes
        ]
        self.block = torch.zeros((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
        self.other = torch.empty_like(self.block)

    def flops(self) -> float:
        """FLOP/s."""
        return max(
            2 * a.shape[0] * a.shape[1] * b.shape[1] / seconds_of(lambda a=a, b=b: a @ b, self.device)  # type: ignore[misc]
            for a, b in self.products
        )

    def bandwidth(self) -> float:
        """Bytes/s read and written: by a copy, which may have to read what it writes; in place; by a sum."""
        size = self.block.numel() * self.block.itemsize
        passes: list[tuple[int, Callable[[], object]]] = [
            (2, lambda: self.other.copy_(self.block)),
            (2, lambda: self.block.neg_()),
            (3, lambda: self.other.add_(self.block)),
            (1, lambda: self.block.sum()),
        ]
        return max(times * size / seconds_of(work, self.device) for times, work in passes)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Of one call; on a GPU the device's, whatever the host takes to launch it."""
    clock = clock_of(device)
    clock.lead()
    clock.mark()
    work()
    clock.mark()
    return clock.between()[0]
