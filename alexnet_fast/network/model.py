"""AlexNet, written once for a process that holds both towers and for one that holds one of them.

N images, C channels (maps), H × W pixels.  Maps are (N, C, H, W) with channels-last strides all the way; tower 0 has
the first half of every layer's maps and units, tower 1 the second.  A process that holds one tower holds that half of
dimension 0 of every weight and bias.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_fast.network import layers
from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.dropout import drop as dropped
from alexnet_fast.network.exchange import Exchange, LocalExchange
from alexnet_fast.network.kernels.pooling import pooled_size
from alexnet_fast.network.tied_pooling import tied_max_pool
from alexnet_fast.tools.errors import UsageError

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
BIAS_ONE = ("conv2", "conv4", "conv5", "fc6", "fc7")
"""Layers whose biases start at 1; the others' start at 0."""
NORMS = ("conv1", "conv2", "conv2-spatial")

Observe = Callable[[str, torch.Tensor], None]
"""Is told (layer, its output) as the forward pass goes; for diagnosis and timing."""


@dataclass(frozen=True)
class Architecture:
    """Everything that defines the network.  The defaults are the authors' net 167, their best bargain."""

    num_classes: int = 1000
    """Any number from 2; an odd one gives the first tower one row of fc8 more."""
    num_towers: int = 2
    """2, or 1 for the paper's one-GPU comparison."""
    exchanged: bool = True
    """Whether conv3, fc6 and fc7 see both towers.  fc8 always does."""
    maps: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    """Maps of conv1..conv5, both towers together."""
    units: tuple[int, int] = (4096, 4096)
    """Units of fc6 and fc7, both towers together."""
    norms: tuple[str, ...] = ("conv1",)
    """Which of `NORMS` there are.  Net 145 has all three; the paper's text has the first two."""
    norm_alpha: float = 1e-4
    """Scale of the norm across maps, divided by its window of 5.  The paper's text does not divide: 5e-4."""
    relu_first: bool = False
    """conv1: False: linear → norm → pool → activation, as the program; True: activation → norm → pool, as the paper."""
    activation: str = "relu"
    """"relu" or "tanh"."""
    pool_size: int = 3
    """Pixels; the stride is 2.  2 makes windows that do not overlap."""
    conv2_padding: int = 2
    """Pixels on each side; 1 in the net with 2/2 pooling."""
    conv5_padding: int = 1
    """Pixels on each side; 0 in the net with 2/2 pooling."""
    middle_sigma: float = 0.03
    """Standard deviation of conv3..conv5's start weights; everywhere else 0.01.  The paper says 0.01 everywhere."""
    dropout: float = 0.5
    """Fraction of the outputs of fc6 and fc7 that training sets to zero."""
    dropout_inverted: bool = False
    """False: testing multiplies these outputs by 1 - dropout (2012).  True: training divides what it keeps by that."""
    all_ties: bool = False
    """Max pooling's gradient goes to every pixel that equals the maximum (2012), not to one of them."""
    image_size: int = 224
    """Pixels; smaller ones are for trying."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"num_classes is {self.num_classes}: a network that chooses needs at least 2 classes")
        if self.num_towers not in (1, 2):
            raise UsageError(f"num_towers is {self.num_towers}: choose 1 or 2")
        if self.activation not in ("relu", "tanh"):
            raise UsageError(f"activation is {self.activation!r}: choose 'relu' or 'tanh'")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}: give a fraction from 0 to below 1")
        unknown = [norm for norm in self.norms if norm not in NORMS]
        if unknown:
            raise UsageError(f"norms has {unknown[0]!r}: choose from {', '.join(NORMS)}")
        odd = [size for size in (*self.maps, *self.units) if size % self.num_towers]
        if odd:
            raise UsageError(f"{odd[0]} maps or units do not divide into {self.num_towers} towers")
        if self.last_map_size < 1:
            raise UsageError(f"image_size is {self.image_size}: too small, nothing is left after the last pooling")

    @property
    def last_map_size(self) -> int:
        """Pixels on each side of what fc6 sees: 6."""
        return self.map_sizes[-1]

    @property
    def map_sizes(self) -> tuple[int, int, int, int, int, int, int]:
        """Pixels on a side after conv1, pool1, conv2, pool2, conv3 = conv4, conv5, pool5: 55, 27, 27, 13, 13, 13, 6."""
        conv1 = layers.conv1_size(self.image_size)
        pool1 = pooled_size(conv1, self.pool_size)
        conv2 = pool1 + 2 * self.conv2_padding - 4
        pool2 = pooled_size(conv2, self.pool_size)
        conv5 = pool2 + 2 * self.conv5_padding - 2
        return conv1, pool1, conv2, pool2, pool2, conv5, pooled_size(conv5, self.pool_size)

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Layer -> its whole weight: conv (maps, seen, k, k), fc6 (units, seen, H, W), fc7, fc8 (units, seen)."""
        own = 1 if self.num_towers == 1 else 2
        both = 1 if self.exchanged else own
        m1, m2, m3, m4, m5 = self.maps
        last = self.last_map_size
        return {
            "conv1": (m1, 3, 11, 11),
            "conv2": (m2, m1 // own, 5, 5),
            "conv3": (m3, m2 // both, 3, 3),
            "conv4": (m4, m3 // own, 3, 3),
            "conv5": (m5, m4 // own, 3, 3),
            "fc6": (self.units[0], m5 // both, last, last),
            "fc7": (self.units[1], self.units[0] // both),
            "fc8": (self.num_classes, self.units[1]),
        }

    @property
    def test_scale(self) -> float:
        """What testing multiplies the outputs of fc6 and fc7 by."""
        return 1.0 if self.dropout_inverted else 1.0 - self.dropout

    def sigma(self, layer: str) -> float:
        """Standard deviation of a layer's start weights."""
        return self.middle_sigma if layer in ("conv3", "conv4", "conv5") else 0.01

    def rows(self, layer: str, towers: tuple[int, ...]) -> slice:
        """Which rows (dimension 0) of a layer's whole weight belong to these towers."""
        size = self.weight_shapes[layer][0]
        edges = (0, size) if self.num_towers == 1 else (0, (size + 1) // 2, size)
        return slice(edges[towers[0]], edges[towers[-1] + 1])


NETS: dict[str, Architecture] = {
    "145": Architecture(norms=NORMS),
    "167": Architecture(),
    "paper": Architecture(norms=("conv1", "conv2"), norm_alpha=5e-4, relu_first=True, middle_sigma=0.01),
    "145-half": Architecture(norms=NORMS, num_towers=1, maps=(48, 128, 192, 192, 256)),
    "147": Architecture(norms=NORMS, pool_size=2, conv2_padding=1, conv5_padding=0),
    "148": Architecture(norms=()),
    "150": Architecture(norms=NORMS, exchanged=False, maps=(96, 320, 384, 384, 256), units=(8192, 4096)),
}
"""The authors' numbered nets (layers/layers-NUMBER.cfg); "paper" is the paper's text.

145: the paper's net as it ran.  167: one norm, not three.  145-half: one tower.  147: pooling without overlap.  148: no
norms.  150: towers that never exchange.  Net 170 is net 145 with another schedule (its file is layers/layers-153.cfg).
"""
POOLINGS: dict[str, dict[str, int]] = {
    "3/2": {"pool_size": 3, "conv2_padding": 2, "conv5_padding": 1},
    "2/2": {"pool_size": 2, "conv2_padding": 1, "conv5_padding": 0},
}
"""Window / stride of max pooling -> what it is in an `Architecture`; 2/2 as in net 147 (layers/layers-147.cfg)."""


class Weights(nn.Module):
    """One layer's weight and bias, so that parameters are named conv1.weight, conv1.bias, …"""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        form = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        self.weight = nn.Parameter(torch.empty(shape, memory_format=form))
        self.bias = nn.Parameter(torch.empty(shape[0]))

    def extra_repr(self) -> str:
        return f"weight {'×'.join(map(str, self.weight.shape))}, bias {len(self.bias)}"

    def _hooks_have_no_place(self, *arguments: Any, **options: Any) -> NoReturn:
        raise NotImplementedError(
            "a layer of AlexNet is computed fused with its neighbors, so that no hook would ever be called; "
            "model(images, observe=function) calls function(layer, output) for each of its stages"
        )

    register_forward_hook = register_forward_pre_hook = register_full_backward_hook = _hooks_have_no_place
    register_full_backward_pre_hook = _hooks_have_no_place


class AlexNet(nn.Module):
    """The network of 2012: (N, 3, 224, 224) images, mean subtracted, to (N, classes) logits.

    A new network is initialized and in training mode, as PyTorch's modules are.  In training mode fc6's and fc7's
    outputs are dropped out; after `eval()` they are all multiplied by 0.5, as the authors' program did.  Parameters are
    float32; `model.to(device)` and any PyTorch optimizer work, and so does `state_dict`.

    >>> from alexnet_fast import AlexNet, recipe
    >>> model = AlexNet(recipe("2012").architecture(num_classes=10)).eval()
    >>> model(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        architecture: Architecture | None = None,
        *,
        exchange: Exchange | None = None,
        seed: int | None = 0,
    ) -> None:
        """architecture: None is net 167 with 1,000 classes.  exchange: where the other tower is; None: in here.
        seed: of the initialization; None leaves the parameters without values, for `load_whole_state` to set.
        """
        super().__init__()
        self.architecture = architecture = architecture if architecture is not None else Architecture()
        self.exchange: Exchange = exchange if exchange is not None else LocalExchange(architecture.num_towers)
        self.towers = self.exchange.towers
        for layer, (_, *rest) in architecture.weight_shapes.items():
            rows = architecture.rows(layer, self.towers)
            self.add_module(layer, Weights((rows.stop - rows.start, *rest)))
        if seed is not None and not next(self.parameters()).is_meta:
            self.initialize(seed)

    def extra_repr(self) -> str:
        a = self.architecture
        numbers = sum(parameter.numel() for parameter in self.parameters())
        towers = f"{a.num_towers} towers" if len(self.towers) == 2 else f"tower {self.towers[0]} of {a.num_towers}"
        return (
            f"{towers}, norms: {', '.join(a.norms) or 'none'}, {a.activation}, "
            f"dropout {a.dropout:g} after fc6 and fc7, {a.num_classes:,} classes, {numbers / 1e6:,.2f} M parameters"
        )

    def initialize(self, seed: int) -> None:
        """Initialization: weights N(0, σ²), biases 0 or 1.  The same for a seed however the towers are spread."""
        state: dict[str, torch.Tensor] = {}
        for layer, shape in self.architecture.weight_shapes.items():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {layer}".encode()))
            state[f"{layer}.weight"] = torch.randn(shape, generator=generator) * self.architecture.sigma(layer)
            state[f"{layer}.bias"] = torch.full((shape[0],), float(layer in BIAS_ONE))
        load_whole_state(self, state)

    def forward(
        self,
        images: torch.Tensor,
        dropout: DropoutKey | None = None,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        observe: Observe | None = None,
    ) -> torch.Tensor:
        """(N, 3, 224, 224), mean subtracted -> logits (N, classes), the same in both towers' processes.

        Computes in the dtype of `weights`, stand-ins for the parameters by name; None: the parameters, in the dtype of
        `images`.  dropout: the masks to use; None: in training mode fresh ones, by torch's default generator; in
        evaluation mode none, all of fc6's and fc7's outputs × `test_scale`.  observe: called with each stage's name and
        output.
        """
        if weights is None:
            weights = self.working_weights(images.dtype)
        if dropout is None and self.training:
            dropout = DropoutKey(torch.randint(1 << 32, ()).to(images.device))
        see = observe if observe is not None else ignore
        a = self.architecture
        num_here = len(self.towers)
        activate = torch.relu if a.activation == "relu" else torch.tanh

        maps = layers.conv1(images, weights["conv1.weight"], weights["conv1.bias"])
        see("conv1", maps[0])
        norm = a.norm_alpha if "conv1" in a.norms else None
        x = self.activate_norm_pool(maps, norm) if a.relu_first else self.pool_and_activate(maps, norm)
        see("norm1+pool1", x)
        maps = layers.convolve(x, weights["conv2.weight"], weights["conv2.bias"], a.conv2_padding, num_here)
        see("conv2", maps[0])
        norm = a.norm_alpha if "conv2" in a.norms else None
        if "conv2-spatial" in a.norms:
            x = layers.spatial_norm(layers.biased(self.normalize(maps, norm, activate)))
            x = self.pool((x, None))
        else:
            x = self.activate_norm_pool(maps, norm)
        see("norm2+pool2", x)
        x = activate(self.see_both("conv3", x, weights))
        see("conv3", x)
        maps = layers.convolve(x, weights["conv4.weight"], weights["conv4.bias"], 1, num_here)
        x = activate(layers.biased(maps))
        see("conv4", x)
        x = self.pool_and_activate(
            layers.convolve(x, weights["conv5.weight"], weights["conv5.bias"], a.conv5_padding, num_here)
        )
        see("conv5", x)
        x = self.drop(activate(self.see_both("fc6", x, weights)), dropout, 6)
        see("fc6", x)
        x = self.drop(activate(self.see_both("fc7", x, weights)), dropout, 7)
        see("fc7", x)
        x = self.see_both("fc8", x, weights, always=True)
        logits = x if num_here == a.num_towers else layers.gather_logits(x, self.exchange, a.num_classes)
        see("fc8", logits)
        return logits

    def working_weights(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The parameters in a dtype, for many forward passes; those that are in it already are not copied."""
        return {name: parameter.to(dtype) for name, parameter in self.named_parameters()}

    def normalize(
        self, maps: layers.Maps, alpha: float | None, activate: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> layers.Maps:
        """Activation (if any), then the norm across the maps of each tower (if any)."""
        if activate is not None and (alpha is None or activate is not torch.relu):
            maps, activate = (activate(layers.biased(maps)), None), None
        if alpha is None:
            return maps
        return layers.local_response_norm(maps, len(self.towers), alpha, relu=activate is torch.relu), None

    def activate_norm_pool(self, maps: layers.Maps, alpha: float | None) -> torch.Tensor:
        """Activation, the norm across the maps of each tower (if any), pooling."""
        if alpha is None:
            return self.pool_and_activate(maps)
        relu = self.architecture.activation == "relu"
        if not relu:
            maps = torch.tanh(layers.biased(maps)), None
        return self.norm_and_pool(maps, alpha, relu_first=relu)

    def pool_and_activate(self, maps: layers.Maps, alpha: float | None = None) -> torch.Tensor:
        """The norm across the maps of each tower (if any), pooling, activation.

        Activations rise monotonically: pooling first is the same to the bit, and leaves a quarter to activate.
        """
        relu = self.architecture.activation == "relu"
        pooled = self.pool(maps, relu=relu) if alpha is None else self.norm_and_pool(maps, alpha, relu_last=relu)
        return pooled if relu else torch.tanh(pooled)

    def norm_and_pool(
        self, maps: layers.Maps, alpha: float, *, relu_first: bool = False, relu_last: bool = False
    ) -> torch.Tensor:
        """ReLU (`relu_first`), the norm across the maps of each tower, max pooling, ReLU (`relu_last`)."""
        num_here, pool_size = len(self.towers), self.architecture.pool_size
        if self.architecture.all_ties:
            return self.pool((layers.local_response_norm(maps, num_here, alpha, relu=relu_first), None), relu=relu_last)
        return layers.norm_and_pool(maps, num_here, alpha, pool_size, relu_first=relu_first, relu_last=relu_last)

    def pool(self, maps: layers.Maps, *, relu: bool = False) -> torch.Tensor:
        """Max pooling; `relu`: then a ReLU."""
        if not self.architecture.all_ties:
            return layers.pool(maps, self.architecture.pool_size, relu=relu)
        pooled = tied_max_pool(layers.biased(maps), self.architecture.pool_size)
        return torch.relu(pooled) if relu else pooled

    def see_both(
        self, layer: str, x: torch.Tensor, weights: Mapping[str, torch.Tensor], always: bool = False
    ) -> torch.Tensor:
        """conv3, fc6, fc7 or fc8: a layer in front of which the towers meet, if they do in this architecture."""
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        if not (self.architecture.exchanged or always):
            return layers.joint(layer, x, weight, bias, groups=len(self.towers))
        if len(self.towers) == self.architecture.num_towers:
            return layers.joint(layer, x, weight, bias, groups=1)
        return layers.exchanged(layer, x, weight, bias, self.exchange)

    def drop(self, x: torch.Tensor, dropout: DropoutKey | None, layer: int) -> torch.Tensor:
        """Dropout as in 2012: training only zeroes, testing scales; or inverted, as torch.nn.Dropout."""
        rate = self.architecture.dropout
        if dropout is None or rate == 0.0:
            return x * self.architecture.test_scale if self.architecture.test_scale != 1.0 else x
        first_unit = self.architecture.rows(f"fc{layer}", self.towers).start
        kept = dropped(x, dropout, layer, first_unit, rate)
        return kept / (1.0 - rate) if self.architecture.dropout_inverted else kept


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In the block the network is in evaluation mode; afterwards in the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def ignore(layer: str, output: torch.Tensor) -> None:
    """Observes nothing."""


def loss_and_errors(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy (float32 or wider) and the number of images whose first guess is wrong, both 0-dim."""
    wide = logits.double() if logits.dtype == torch.float64 else logits.float()
    errors = (wide.detach().argmax(dim=1) != labels).sum()
    return F.cross_entropy(wide, labels), errors


def load_whole_state(model: AlexNet, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take this process's rows of whole tensors, such as `whole_state` or `initialize` make."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(own_rows(model, name, tensors[name]))


def own_rows(model: AlexNet, name: str, whole: torch.Tensor) -> torch.Tensor:
    """This process's rows of the whole tensor of a parameter (or of its momentum)."""
    layer, kind = name.split(".")
    shape = model.architecture.weight_shapes[layer]
    expected = shape if kind == "weight" else shape[:1]
    if tuple(whole.shape) != expected:
        raise UsageError(f"{name} is {tuple(whole.shape)} there and {expected} in this network: another architecture")
    return whole[model.architecture.rows(layer, model.towers)]


def whole_state(model: AlexNet) -> dict[str, torch.Tensor]:
    """Parameter name -> whole tensor on the CPU, both towers' rows.  Both towers' processes must call it together."""
    return {name: whole_tensor(model, name, parameter.detach()) for name, parameter in model.named_parameters()}


def whole_tensor(model: AlexNet, name: str, rows: torch.Tensor) -> torch.Tensor:
    """Both towers' rows of a parameter (or of its momentum) on the CPU; both towers' processes call it together."""
    if len(model.towers) == model.architecture.num_towers:
        return rows.to("cpu", copy=True)
    layer = name.split(".")[0]
    peer_rows = model.architecture.rows(layer, (1 - model.towers[0],))
    shape = torch.Size((peer_rows.stop - peer_rows.start, *rows.shape[1:]))
    peer = model.exchange.start(rows, shape)()
    halves = (rows, peer) if model.towers == (0,) else (peer, rows)
    return torch.cat([half.to("cpu") for half in halves])


def small(architecture: Architecture, divisor: int = 8, image_size: int = 67, num_classes: int = 10) -> Architecture:
    """The same network with every width divided and smaller images, for trying on any machine."""
    m1, m2, m3, m4, m5 = (size // divisor for size in architecture.maps)
    units = (architecture.units[0] // divisor, architecture.units[1] // divisor)
    return replace(architecture, maps=(m1, m2, m3, m4, m5), units=units, image_size=image_size, num_classes=num_classes)
