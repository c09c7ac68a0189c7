"""The network layer by layer: sizes, receptive fields, parameters, arithmetic, bytes exchanged between towers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alexnet_fast.network.architecture import LAYERS, Architecture
from alexnet_fast.network.layers import CONV1_STRIDE

EXCHANGED = ("conv3", "fc6", "fc7", "fc8")
"""Layers before which the towers exchange their maps, in architectures with an exchange; fc8 always sees both."""


@dataclass(frozen=True)
class LayerSummary:
    """One layer, both towers together where nothing else is said."""

    name: str
    maps: int
    """Maps of a convolution, units of a fully connected layer."""
    size: int
    """Pixels on a side of its maps, before any pooling; 1 for units."""
    pooled: int | None
    """Pixels on a side after the max pooling that follows; None: none does."""
    kernel: int
    """Pixels on a side of what a map or unit sees."""
    stride: int
    seen_maps: int
    """Maps that one map or unit sees."""
    sees_both: bool
    """Whether those are of both towers."""
    then: tuple[str, ...]
    """What follows, in order."""
    parameters: int
    macs: int
    """Multiply-accumulates of one image, forward."""
    exchanged: int
    """Values of one image that each of two processes with one tower each sends for this layer in a training step."""


def summarize(architecture: Architecture) -> list[LayerSummary]:
    """conv1 … fc8."""
    a = architecture
    conv1, _, conv2, _, conv3, conv5, _ = a.map_sizes
    sizes = dict(zip(LAYERS, (conv1, conv2, conv3, conv3, conv5, 1, 1, 1), strict=True))
    pooled = {"conv1": a.map_sizes[1], "conv2": a.map_sizes[3], "conv5": a.map_sizes[6]}
    rows = []
    for name, shape in a.weight_shapes.items():
        outputs, seen = shape[:2]
        kernel = shape[2] if len(shape) == 4 else 1
        both = a.num_towers == 2 and name in EXCHANGED and (a.exchanged or name == "fc8")
        # Forward each process sends its half of the maps, backward the gradient of the other's half.
        exchanged = seen * kernel**2 if name == "fc6" else seen * a.map_sizes[3] ** 2 if name == "conv3" else seen
        exchanged = exchanged if both else 0
        if name == "fc8" and a.num_towers == 2:
            exchanged += outputs // 2  # the logits, forward
        rows.append(
            LayerSummary(
                name=name,
                maps=outputs,
                size=sizes[name],
                pooled=pooled.get(name),
                kernel=kernel,
                stride=CONV1_STRIDE if name == "conv1" else 1,
                seen_maps=seen,
                sees_both=both,
                then=what_follows(a, name),
                parameters=math.prod(shape) + outputs,
                macs=math.prod(shape) * sizes[name] ** 2,
                exchanged=exchanged,
            )
        )
    return rows


def what_follows(architecture: Architecture, layer: str) -> tuple[str, ...]:
    """The steps between a layer's linear part and the next layer, in their order."""
    a = architecture
    activation = "ReLU" if a.activation == "relu" else a.activation
    pool = f"max pool {a.pool_size}/2"
    if layer == "conv1":
        norm = ("norm",) if "conv1" in a.norms else ()
        return (activation, *norm, pool) if a.relu_first else (*norm, pool, activation)
    if layer == "conv2":
        norms = [word for key, word in (("conv2", "norm"), ("conv2-spatial", "norm in the map")) if key in a.norms]
        return (activation, *norms, pool)
    if layer == "conv5":
        return pool, activation
    if layer in ("fc6", "fc7"):
        variant = " (inverted)" if a.dropout_inverted else ""
        return (activation, f"dropout {a.dropout:g}{variant}") if a.dropout else (activation,)
    return ("softmax",) if layer == "fc8" else (activation,)


def table(architecture: Architecture, *, batch_size: int, bytes_per_value: int) -> str:
    """The layers as a table, a line each, with totals; exchanged bytes are those of a step with `batch_size` images."""
    a, rows = architecture, summarize(architecture)
    head = ("layer", "maps", "size", "kernel", "sees", "then", "parameters", "MACs")
    towers = f"{a.num_towers} × " if a.num_towers > 1 else ""
    lines: list[tuple[str, ...]] = [
        (
            row.name,
            f"{towers}{row.maps // a.num_towers}" if row.name != "fc8" else f"{row.maps}",
            f"{row.size} × {row.size}" if row.name.startswith("conv") else "",
            f"{row.kernel} × {row.kernel} × {row.seen_maps}" + (f", stride {row.stride}" if row.stride > 1 else "")
            if row.kernel > 1
            else f"{row.seen_maps}",
            "the image" if row.name == "conv1" else "both towers" if row.sees_both else "own tower",
            ", ".join(row.then) + (f" → {row.pooled} × {row.pooled}" if row.pooled else ""),
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f} M",
        )
        for row in rows
    ]  # fmt: skip
    total = ("total", "", "", "", "", "", f"{sum(row.parameters for row in rows):,}")
    lines.append((*total, f"{sum(row.macs for row in rows) / 1e6:,.1f} M"))
    if a.num_towers == 1:  # one tower sees all there is
        return aligned([head, *lines], skipped=4)
    exchanged = [row.exchanged * batch_size * bytes_per_value for row in rows]
    images = 3 * a.image_size**2 // 2 * batch_size * bytes_per_value
    column = ["exchanged", *(f"{number / 1e6:.1f} MB" if number else "" for number in exchanged)]
    column.append(f"{(sum(exchanged) + images) / 1e6:.1f} MB")
    half = (
        "images",
        "",
        "",
        "",
        "",
        "each process loads half the batch and sends it",
        "",
        "",
        f"{images / 1e6:.1f} MB",
    )
    cells = [(*line, cell) for line, cell in zip([head, *lines], column, strict=True)]
    return aligned([cells[0], half, *cells[1:]])


def aligned(lines: list[tuple[str, ...]], skipped: int | None = None) -> str:
    """Columns of equal width, numbers to the right; `skipped`: a column to leave out."""
    kept = [tuple(cell for place, cell in enumerate(line) if place != skipped) for line in lines]
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    numbers = {place for place, title in enumerate(kept[0]) if title in ("parameters", "MACs", "exchanged")}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in kept
    )
