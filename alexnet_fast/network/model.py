"""AlexNet, written once for a process that holds both towers and for one that holds one of them.

N images, C channels (maps), H × W pixels.  Maps are (N, C, H, W) with channels-last strides all the way; tower 0 has
the first half of every layer's maps and units, tower 1 the second.  A process that holds one tower holds that half of
dimension 0 of every weight and bias.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_fast.network import layers
from alexnet_fast.network.architecture import BIAS_ONE, LAYERS, NETS, NORMS, Architecture, small
from alexnet_fast.network.convolution import Strategy
from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.dropout import drop as dropped
from alexnet_fast.network.exchange import Exchange, LocalExchange
from alexnet_fast.network.tied_pooling import tied_max_pool
from alexnet_fast.tools.errors import UsageError

__all__ = ["BIAS_ONE", "LAYERS", "NETS", "NORMS", "AlexNet", "Architecture", "load_whole_state", "small", "whole_state"]

Observe = Callable[[str, torch.Tensor], None]
"""Called with (layer, its output) during the forward pass; for diagnosis and timing."""


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
        """architecture: None is net 167 with 1,000 classes.  exchange: with the other tower's process; None: both
        towers are in this process.  seed: of the initialization; None leaves the parameters without values, for
        `load_whole_state` to set.
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
        """Initialization: weights N(0, σ²), biases 0 or 1; the same with the towers in one process or two."""
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
        convolutions: Mapping[str, Strategy] | None = None,
    ) -> torch.Tensor:
        """(N, 3, 224, 224), mean subtracted -> logits (N, classes), the same in both towers' processes.

        Computes in the dtype of `weights`, stand-ins for the parameters by name; None: the parameters, in the dtype of
        `images`.  dropout: the masks to use; None: in training mode fresh ones, by torch's default generator; in
        evaluation mode none, all of fc6's and fc7's outputs × `test_scale`.  observe: called with each stage's name and
        output.  convolutions: how layers that see one tower's maps are computed; those not in it "grouped".
        """
        if weights is None:
            weights = self.working_weights(images.dtype)
        if dropout is None and self.training:
            dropout = DropoutKey(torch.randint(1 << 32, ()).to(images.device))
        see = observe if observe is not None else ignore
        a = self.architecture
        num_here = len(self.towers)
        how = convolutions if convolutions is not None else {}
        activate = torch.relu if a.activation == "relu" else torch.tanh

        maps = layers.conv1(images, weights["conv1.weight"], weights["conv1.bias"])
        see("conv1", maps[0])
        norm = a.norm_alpha if "conv1" in a.norms else None
        x = self.activate_norm_pool(maps, norm) if a.relu_first else self.pool_and_activate(maps, norm)
        see("norm1+pool1", x)
        maps = self.see_own("conv2", x, weights, a.conv2_padding, how)
        see("conv2", maps[0])
        norm = a.norm_alpha if "conv2" in a.norms else None
        if "conv2-spatial" in a.norms:
            x = layers.spatial_norm(layers.biased(self.normalize(maps, norm, activate)))
            x = self.pool((x, None))
        else:
            x = self.activate_norm_pool(maps, norm)
        see("norm2+pool2", x)
        x = activate(self.see_both("conv3", x, weights, convolutions=how))
        see("conv3", x)
        maps = self.see_own("conv4", x, weights, 1, how)
        x = activate(layers.biased(maps))
        see("conv4", x)
        x = self.pool_and_activate(self.see_own("conv5", x, weights, a.conv5_padding, how))
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

        Activations are monotonic: pooling first gives the same bits, and leaves a quarter of the elements to activate.
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

    def see_own(
        self,
        layer: str,
        x: torch.Tensor,
        weights: Mapping[str, torch.Tensor],
        padding: int,
        convolutions: Mapping[str, Strategy],
    ) -> layers.Maps:
        """conv2, conv4 or conv5: a layer in which each tower sees its own maps."""
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        return layers.convolve(x, weight, bias, padding, len(self.towers), convolutions.get(layer, "grouped"))

    def see_both(
        self,
        layer: str,
        x: torch.Tensor,
        weights: Mapping[str, torch.Tensor],
        always: bool = False,
        convolutions: Mapping[str, Strategy] = MappingProxyType({}),
    ) -> torch.Tensor:
        """conv3, fc6, fc7 or fc8: a layer that sees both towers' maps, in architectures with an exchange."""
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        if not (self.architecture.exchanged or always):
            return layers.joint(layer, x, weight, bias, len(self.towers), convolutions.get(layer, "grouped"))
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
    """The default of `observe`: does nothing."""


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
    """Parameter name -> whole tensor on the CPU, both towers' rows.  The ranks of both towers call it together."""
    return {name: whole_tensor(model, name, parameter.detach()) for name, parameter in model.named_parameters()}


def whole_tensor(model: AlexNet, name: str, rows: torch.Tensor) -> torch.Tensor:
    """Both towers' rows of a parameter (or of its momentum) on the CPU; the ranks of both towers call it together."""
    if len(model.towers) == model.architecture.num_towers:
        return rows.to("cpu", copy=True)
    layer = name.split(".")[0]
    peer_rows = model.architecture.rows(layer, (1 - model.towers[0],))
    shape = torch.Size((peer_rows.stop - peer_rows.start, *rows.shape[1:]))
    peer = model.exchange.start(rows, shape)()
    halves = (rows, peer) if model.towers == (0,) else (peer, rows)
    return torch.cat([half.to("cpu") for half in halves])
