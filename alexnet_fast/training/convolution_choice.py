"""Which way of computing each grouped convolution is fastest on this GPU, found by timing them before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from alexnet_fast.distributed.clock import clock_of
from alexnet_fast.distributed.mesh import all_gather_object
from alexnet_fast.network.architecture import Architecture
from alexnet_fast.network.convolution import STRATEGIES, Strategy, convolve
from alexnet_fast.training.train_step import TrainingStep, fastest_convolutions

WARM_UP = 2
"""Calls before the timing; in the first cuDNN times its own kernels."""
ROUNDS = 5
CALLS = 4
"""Timed together in a round."""
LEAST_GAIN = 0.05
"""Share of the grouped form's time by which another one must be faster, to be more than noise."""

Times = dict[Strategy, float]
"""Milliseconds forward and back; a strategy that could not be computed is missing."""


@dataclass(frozen=True)
class GroupedLayer:
    """The shape of a convolution that sees each tower's own maps, both towers together."""

    maps: int
    """That it sees."""
    side: int
    """Pixels on a side of those."""
    weight: tuple[int, ...]
    """(maps, maps seen of one tower, k, k)"""
    padding: int


def grouped_layers(architecture: Architecture) -> dict[str, GroupedLayer]:
    """Layer -> its shape, of a process that holds both towers; empty where there is one tower."""
    a = architecture
    if a.num_towers == 1:
        return {}
    _, pool1, _, pool2, conv34, _, _ = a.map_sizes
    inputs = {"conv2": (pool1, a.conv2_padding), "conv4": (conv34, 1), "conv5": (conv34, a.conv5_padding)}
    if not a.exchanged:
        inputs["conv3"] = (pool2, 1)
    found = {}
    for layer, (side, padding) in sorted(inputs.items()):
        weight = a.weight_shapes[layer]
        found[layer] = GroupedLayer(2 * weight[1], side, weight, padding)
    return found


def choose_convolutions(step: TrainingStep, num_images: int) -> str | None:
    """Time the strategies of each grouped convolution, let the step use the fastest; a line about it.

    `num_images`: what this process's loader gives at once.  All ranks call it together, before `step.capture`, and
    choose alike: by the rank that takes longest.  None, and everything stays grouped: on a CPU, with reproducible
    kernels, and where a process holds one tower.
    """
    if step.device.type != "cuda" or torch.are_deterministic_algorithms_enabled() or len(step.model.towers) == 1:
        return None
    times = {
        layer: time_strategies(shape, num_images * step.loading_processes, step.device, step.dtype)
        for layer, shape in grouped_layers(step.model.architecture).items()
    }
    torch.cuda.empty_cache()  # the captured step allocates for a stream of its own
    everywhere = all_gather_object(step.mesh, times)
    slowest = {layer: slowest_of(rank[layer] for rank in everywhere) for layer in times}
    step.convolutions = {layer: fastest(found) for layer, found in slowest.items()}
    return describe(step.convolutions, slowest)


def time_strategies(
    layer: GroupedLayer, num_images: int, device: torch.device, dtype: torch.dtype, *, rounds: int = ROUNDS
) -> Times:
    """The shortest of some rounds, in which the strategies take turns; empty where not even the maps fit."""
    try:
        calls = calls_of(layer, num_images, device, dtype)
    except torch.OutOfMemoryError:  # the step says how many images fit, and no rank waits for this one's times
        return {}
    times: Times = {}
    with fastest_convolutions(device):
        for strategy, call in calls.items():
            try:
                for _ in range(WARM_UP):
                    call()
            except RuntimeError:  # no kernel, or no memory for it; the step reports what becomes of the grouped form
                continue
            times[strategy] = float("inf")
        for _ in range(rounds):
            for strategy in times:
                clock = clock_of(device)
                clock.lead()
                clock.mark()
                for _ in range(CALLS):
                    calls[strategy]()
                clock.mark()
                times[strategy] = min(times[strategy], 1e3 * clock.between()[0] / CALLS)
    return times


def calls_of(
    layer: GroupedLayer, num_images: int, device: torch.device, dtype: torch.dtype
) -> dict[Strategy, Callable[[], None]]:
    """Strategy -> what computes the layer forward and back, all on the same random numbers."""

    def tensor(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        return values.requires_grad_()

    x, weight = tensor(num_images, layer.maps, layer.side, layer.side), tensor(*layer.weight)
    groups = layer.maps // layer.weight[1]

    def forward_and_back(strategy: Strategy) -> None:
        y = convolve(x, weight, None, layer.padding, groups, strategy)  # on a GPU the next kernel adds the bias
        torch.autograd.grad(y, (x, weight), y.detach())

    return {strategy: partial(forward_and_back, strategy) for strategy in STRATEGIES}


def slowest_of(ranks: Iterable[Times]) -> Times:
    """Strategies that every rank could compute, with the longest time of all ranks: a step waits for that one."""
    every = list(ranks)
    return {name: max(rank[name] for rank in every) for name in STRATEGIES if all(name in rank for rank in every)}


def fastest(times: Times) -> Strategy:
    """Grouped, unless another one is faster by more than noise."""
    if not times:
        return "grouped"
    best = min(times, key=lambda strategy: times[strategy])
    if "grouped" in times and times[best] > (1 - LEAST_GAIN) * times["grouped"]:
        return "grouped"
    return best


def describe(chosen: Mapping[str, Strategy], times: Mapping[str, Times]) -> str:
    """For people."""
    layers = (
        f"{layer} {strategy} ({', '.join(f'{name} {ms:.2f}' for name, ms in times[layer].items()) or 'not timed'})"
        for layer, strategy in chosen.items()
    )
    return f"Convolutions in groups, the fastest by timing (ms forward and back): {'; '.join(layers)}"
