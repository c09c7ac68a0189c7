"""The authors' layer files as data, and an interpreter of them in float64 that shares nothing with the network.

Facts from layers/layers-NUMBER.cfg of the authors' release: name, inputs, filters or outputs, window, stride, padding,
initial values (σ of the weights, value of the biases), neuron.  "a" and "b" at the end of a name are the towers.  Norms
have the numbers of layers/layer-params-145.cfg:137-163.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """One section of a layer file; numbers that its type does not have are 0."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: int = 0
    window: int = 0
    stride: int = 0
    padding: int = 0
    init_w: float = 0.0
    init_b: float = 0.0
    neuron: str = ""


def tower(t: str, o: str, *, meets: bool = True, conv2: int = 128, conv5: int = 128, fc: int = 2048) -> list[Layer]:
    """Net 145's layers of tower `t`, `o` being the other one; "" for none."""

    def seen(name: str) -> tuple[str, ...]:
        return tuple(name + side for side in sorted(t + o)) if meets else (name + t,)

    return [
        Layer(f"conv1{t}", "conv", ("data",), 48, 11, 4, 0, 0.01),
        Layer(f"rnorm1{t}", "cmrnorm", (f"conv1{t}",), window=5),
        Layer(f"pool1{t}", "pool", (f"rnorm1{t}",), 0, 3, 2, neuron="relu"),
        Layer(f"conv2{t}", "conv", (f"pool1{t}",), conv2, 5, 1, 2, 0.01, 1, "relu"),
        Layer(f"rnorm2{t}", "cmrnorm", (f"conv2{t}",), window=5),
        Layer(f"cnorm2{t}", "rnorm", (f"rnorm2{t}",), window=5),
        Layer(f"pool2{t}", "pool", (f"cnorm2{t}",), 0, 3, 2),
        Layer(f"conv3{t}", "conv", seen("pool2"), 192, 3, 1, 1, 0.03, 0, "relu"),
        Layer(f"conv4{t}", "conv", (f"conv3{t}",), 192, 3, 1, 1, 0.03, 1, "relu"),
        Layer(f"conv5{t}", "conv", (f"conv4{t}",), conv5, 3, 1, 1, 0.03, 1),
        Layer(f"pool3{t}", "pool", (f"conv5{t}",), 0, 3, 2, neuron="relu"),
        Layer(f"fc6{t}", "fc", seen("pool3"), fc, init_w=0.01, init_b=1, neuron="relu"),
        Layer(f"hs1{t}", "hs", (f"fc6{t}",)),
        Layer(f"fc7{t}", "fc", seen("hs1"), 2048 if o else fc, init_w=0.01, init_b=1, neuron="relu"),
        Layer(f"hs2{t}", "hs", (f"fc7{t}",)),
    ]


def without(table: list[Layer], *types: str, where: str = "") -> list[Layer]:
    """The table less the norms of these types whose names have `where` in them."""
    gone = {row.name: row.inputs[0] for row in table if row.type in types and where in row.name}

    def source(name: str) -> str:
        return source(gone[name]) if name in gone else name

    return [replace(row, inputs=tuple(map(source, row.inputs))) for row in table if row.name not in gone]


def changed(table: list[Layer], layers: str, **numbers: object) -> list[Layer]:
    return [replace(row, **numbers) if row.name.startswith(layers) else row for row in table]  # type: ignore[arg-type]


def both(**widths: object) -> list[Layer]:
    """Two towers, layer by layer, as the files have them."""
    first, second = tower("a", "b", **widths), tower("b", "a", **widths)  # type: ignore[arg-type]
    return [row for pair in zip(first, second, strict=True) for row in pair]


FC1000 = Layer("fc8a", "fc", ("hs2a", "hs2b"), 1000, init_w=0.01)
NET145 = [*both(), FC1000]
RELU_FIRST = changed(changed(without(NET145, "rnorm"), "conv1", neuron="relu"), "pool1", neuron="")
TABLES: dict[str, list[Layer]] = {
    "145": NET145,
    "145-half": [*tower("a", "", conv5=256, fc=4096), replace(FC1000, inputs=("hs2a",))],
    "147": changed(changed(changed(NET145, "pool", window=2), "conv2", padding=1), "conv5", padding=0),
    "148": without(NET145, "cmrnorm", "rnorm"),
    "150": [*both(meets=False, conv2=160, fc=4096), FC1000],
    "167": without(NET145, "cmrnorm", "rnorm", where="2"),
    # Not files of the authors': the paper's text, with one σ, and Caffe's network.  ReLU before the norm.
    "paper": changed(RELU_FIRST, "conv", init_w=0.01),
    "caffe": RELU_FIRST,
}


def windows(x: torch.Tensor, size: int, stride: int, before: int, fill: float) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, h, w, size, size); the last window may reach past the edge, where `fill` is."""
    count = 1 + -(-(x.shape[2] + 2 * before - size) // stride)
    after = (count - 1) * stride + size - before - x.shape[2]
    x = F.pad(x, (before, after, before, after), value=fill)
    return x.unfold(2, size, stride).unfold(3, size, stride)


class Net:
    """A table's network with every width divided; its parameters are those of the towers, one block for each input."""

    def __init__(self, table: list[Layer], divisor: int = 1, classes: int = 1000, scale: float = 1e-4) -> None:
        sizes = {row.name: classes if row.name == "fc8a" else row.outputs // divisor for row in table}
        self.table = [replace(row, outputs=sizes[row.name]) for row in table]
        self.scale = scale

    def forward(self, images: torch.Tensor, parameters: Mapping[str, torch.Tensor], masks: Tensors) -> torch.Tensor:
        """Logits.  `masks`: of the dropout layers by name, 1 where a unit lives; 0.5 of everything without them."""
        acts = {"data": images}
        for row in self.table:
            inputs = [acts[name] for name in row.inputs]
            x = inputs[0]
            if row.type == "conv":
                cut = [windows(x, row.window, row.stride, row.padding, 0.0) for x in inputs]
                blocks = [parameters[f"{row.name}<{name}"] for name in row.inputs]
                y = sum(torch.einsum("nchwij,kcij->nkhw", c, w) for c, w in zip(cut, blocks, strict=True))
                x = y + parameters[row.name][:, None, None]
            elif row.type == "fc":
                blocks = [parameters[f"{row.name}<{name}"] for name in row.inputs]
                y = sum(x.flatten(1) @ w.flatten(1).T for x, w in zip(inputs, blocks, strict=True))
                x = y + parameters[row.name]
            elif row.type == "cmrnorm":  # over maps, this tower's alone
                squares = F.pad(x**2, (0, 0, 0, 0, 2, 2)).unfold(1, row.window, 1).sum(-1)
                x = x / (2 + self.scale / row.window * squares) ** 0.75
            elif row.type == "rnorm":  # over pixels of each map
                squares = windows(x**2, row.window, 1, 2, 0.0).sum((-1, -2))
                x = x / (1 + 1e-3 / row.window**2 * squares) ** 0.75
            elif row.type == "pool":
                x = windows(x, row.window, row.stride, 0, -torch.inf).amax((-1, -2))
            else:
                x = x * masks.get(row.name, torch.tensor(0.5, dtype=x.dtype))
            acts[row.name] = {"": x, "relu": x.clamp_min(0), "tanh": torch.tanh(x)}[row.neuron]
        return acts["fc8a"]


def update(parameters: Tensors, velocities: Tensors, gradients: Tensors, rate_of: dict[str, float]) -> None:
    """Weights::update of src/weights.cu:146; names of weights have a "<"; momentum and decay are those of all files."""
    for name, gradient in gradients.items():
        rate = rate_of[name]
        if rate == 0:
            continue
        velocities[name] = 0.9 * velocities[name] - rate * gradient
        if "<" in name:
            velocities[name] -= 0.0005 * rate * parameters[name]
        parameters[name] = parameters[name] + velocities[name]


def split(whole: Mapping[str, torch.Tensor], table: list[Layer]) -> Tensors:
    """Whole tensors by our names (conv1.weight …) -> the table's blocks: rows by tower, columns by input."""
    two = any(row.name == "conv1b" for row in table)
    blocks: Tensors = {}
    for row in table:
        if row.type not in ("conv", "fc"):
            continue
        weight, bias = whole[f"{row.name[:-1]}.weight"], whole[f"{row.name[:-1]}.bias"]
        if two and row.name != "fc8a":
            own = slice(len(bias) // 2, None) if row.name.endswith("b") else slice(len(bias) // 2)
            weight, bias = weight[own], bias[own]
        columns = weight.chunk(len(row.inputs), dim=1)
        blocks |= {f"{row.name}<{name}": part for name, part in zip(row.inputs, columns, strict=True)}
        blocks[row.name] = bias
    return blocks
