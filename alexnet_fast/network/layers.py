"""The layers, as functions of maps and weights; the kernel is chosen here, by device.

N images, C maps, H × W pixels; maps (N, C, H, W) have channels-last strides, and so have four-dimensional weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from alexnet_fast.network import convolution
from alexnet_fast.network.convolution import Strategy
from alexnet_fast.network.exchange import Exchange
from alexnet_fast.network.kernels import norms, pooling

CONV1_KERNEL = 11
CONV1_STRIDE = 4
aten = torch.ops.aten

Maps = tuple[torch.Tensor, torch.Tensor | None]
"""Maps, and the bias that is still to be added to them; None: it has been."""


def conv1_size(image_size: int) -> int:
    """Pixels on a side of conv1's maps: 55 for 224; the last window may reach past the right and bottom edge."""
    return 1 + -(-(image_size - CONV1_KERNEL) // CONV1_STRIDE)


def conv1(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Maps:
    """11×11, stride 4, zeros to the right and below only: (N, 3, 224, 224) -> (N, C, 55, 55), in the weight's dtype.

    Three input maps leave matrix units idle.  Each 4×4 square of pixels becomes one pixel of 48 maps, the kernel is
    padded to 12×12 and becomes 3×3 with stride 1: a fifth more multiplications, 2.5 times as fast.
    """
    cells = conv1_size(images.shape[2]) + 2  # squares of 4×4 pixels that the windows touch: 57
    return convolve(fold_images(images, cells, weight.dtype), fold_kernels(weight), bias, 0, 1)


def fold_images(images: torch.Tensor, cells: int, dtype: torch.dtype) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 48, cells, cells), channels-last; map number = (row in square · 4 + column) · 3 + color."""
    if images.device.type == "cuda" and not images.requires_grad:
        from alexnet_fast.network.kernels import triton_folding  # a torch without CUDA comes without Triton

        return triton_folding.fold(images, cells, dtype)
    compiled = images.dtype == torch.float32 and norms.runs_compiled(images) and dtype in norms.COMPILED_DTYPES
    if compiled and not images.requires_grad:
        from alexnet_fast.network.kernels import cpu  # importing numba takes a moment

        return cpu.fold(norms.dense_maps(images), cells, dtype)
    images = images.to(dtype)  # first: while they are folded it would take a CPU twice as long
    num, colors, height, width = images.shape
    s = CONV1_STRIDE
    if height % s or width % s:
        images = F.pad(images, (0, -width % s, 0, -height % s))
    rows, columns = images.shape[2] // s, images.shape[3] // s
    folded = images.new_zeros(num, cells, cells, s, s, colors)
    squares = images.view(num, colors, rows, s, columns, s).permute(0, 2, 4, 3, 5, 1)
    rows, columns = min(rows, cells), min(columns, cells)
    folded[:, :rows, :columns] = squares[:, :rows, :columns]
    return folded.view(num, cells, cells, s * s * colors).permute(0, 3, 1, 2)


def fold_kernels(weight: torch.Tensor) -> torch.Tensor:
    """(C, 3, 11, 11) -> (C, 48, 3, 3), channels-last, in the order of `fold_images`."""
    num, colors = weight.shape[:2]
    s = CONV1_STRIDE
    padded = F.pad(weight, (0, 1, 0, 1)).reshape(num, colors, 3, s, 3, s)
    return padded.permute(0, 2, 4, 3, 5, 1).reshape(num, 3, 3, s * s * colors).permute(0, 3, 1, 2)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    padding: int,
    groups: int,
    strategy: Strategy = "grouped",
) -> Maps:
    """conv2, conv4, conv5: each tower sees its own maps.  `groups`: towers in this process."""
    if bias_comes_later(x):
        return convolution.convolve(x, weight, None, padding, groups, strategy), bias
    return convolution.convolve(x, weight, bias, padding, groups, strategy), None


def bias_comes_later(x: torch.Tensor) -> bool:
    """Whether the kernel after a convolution adds its bias too; on a GPU torch takes a separate pass for it."""
    return x.device.type in ("cuda", "meta")


def biased(maps: Maps) -> torch.Tensor:
    """For kernels that do not add the bias."""
    x, bias = maps
    return x if bias is None else x + bias[:, None, None]


def pool(maps: Maps, pool_size: int, *, relu: bool = False) -> torch.Tensor:
    """Max over pool_size × pool_size pixels, stride 2; the last window may be cut by the edge.  `relu`: of the max."""
    return pooling.max_pool(maps[0], pool_size, relu, maps[1])


def local_response_norm(maps: Maps, towers: int, alpha: float, *, relu: bool) -> torch.Tensor:
    """y = x / (2 + alpha/5 · Σ x² over 5 neighboring maps of the same tower)^0.75; `relu`: of x first."""
    return norms.local_response_norm(maps[0], towers, alpha, relu, maps[1])


def norm_and_pool(
    maps: Maps, towers: int, alpha: float, pool_size: int, *, relu_first: bool = False, relu_last: bool = False
) -> torch.Tensor:
    """`local_response_norm` (`relu_first`: of x first), then `pool` (`relu_last`: of the maxima)."""
    return pooling.norm_and_pool(
        maps[0], towers, alpha, pool_size, relu_first=relu_first, relu_last=relu_last, bias=maps[1]
    )


def spatial_norm(x: torch.Tensor) -> torch.Tensor:
    """y = x / (1 + 1e-3/25 · Σ x² over 5×5 neighboring pixels of the same map)^0.75."""
    return norms.spatial_norm(x)


def joint(
    layer: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    strategy: Strategy = "grouped",
) -> torch.Tensor:
    """conv3, fc6, fc7, fc8 when every map they see is in this process.  `groups` 2: towers that never exchange."""
    if layer == "conv3":
        return convolution.convolve(x, weight, bias, 1, groups, strategy)
    if groups == 1:
        return F.linear(flat(x), flat(weight), bias)
    parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), bias.chunk(groups), strict=True)
    return torch.cat([F.linear(flat(own_x), flat(own_w), own_b) for own_x, own_w, own_b in parts], dim=1)


def flat(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) channels-last -> (N, H·W·C), no copy; (N, C) stays as it is."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1) if x.dim() == 4 else x


def unflat(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of `flat`, to `shape`."""
    if len(shape) == 2:
        return x
    num, maps, height, width = shape
    return x.view(num, height, width, maps).permute(0, 3, 1, 2)


def exchanged(
    layer: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, exchange: Exchange
) -> torch.Tensor:
    """conv3, fc6, fc7, fc8 when the maps of the other tower are in another process."""
    output: torch.Tensor = SeeBothTowers.apply(layer, x, weight, bias, exchange)  # type: ignore[no-untyped-call]
    return output


class SeeBothTowers(torch.autograd.Function):
    """One tower's rows of a layer that sees both towers' maps.

    Communication overlaps with computation.  Forward: the product with the own maps, while the peer's maps are
    received.  Backward: the weights' gradients, while the gradient of the peer's maps is sent.
    """

    @staticmethod
    def forward(
        ctx: Any, layer: str, own: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, exchange: Exchange
    ) -> torch.Tensor:
        tower = exchange.towers[0]
        peer_maps = weight.shape[1] - own.shape[1]
        wait = exchange.start(own, torch.Size((own.shape[0], peer_maps, *own.shape[2:])))
        if layer == "fc6":  # its weights lie as (unit, H, W, map): a tower's maps are no matrix, both towers' are
            both = in_order(own, wait(), tower)
            output = F.linear(flat(both), flat(weight), bias)
        else:
            own_weight, peer_weight = by_tower(weight, own.shape[1], tower)
            output = product(layer, own, own_weight, bias)
            peer = wait()
            if layer == "conv3":
                output += product(layer, peer, peer_weight, None)
            else:
                output.addmm_(peer, peer_weight.t())
            both = in_order(own, peer, tower)
        ctx.save_for_backward(both, weight)
        ctx.layer, ctx.exchange, ctx.own_maps = layer, exchange, own.shape[1]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        both, weight = ctx.saved_tensors
        exchange: Exchange = ctx.exchange
        gradient = gradients[0]
        if ctx.layer == "conv3":
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            both_gradient = conv3_backward(gradient, both, weight, (True, False, False))[0]
        else:
            both_gradient = unflat(gradient @ flat(weight), both.shape)
        own_part, peer_part = by_tower(both_gradient, ctx.own_maps, exchange.towers[0])
        wait = exchange.start(peer_part, own_part.shape)
        if ctx.layer == "conv3":
            _, weight_gradient, bias_gradient = conv3_backward(gradient, both, weight, (False, True, True))
        else:
            weight_gradient = unflat(gradient.t() @ flat(both), weight.shape)
            bias_gradient = gradient.sum(0)
        return None, own_part + wait(), weight_gradient, bias_gradient, None


def conv3_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of (maps, weight, bias); those that are not wanted are not computed."""
    one, zero = [1, 1], [0, 0]
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = aten.convolution_backward(
        gradient, x, weight, [weight.shape[0]], one, one, one, False, zero, 1, list(wanted)
    )
    return parts


def product(layer: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The layer's linear part over some of its input maps."""
    return F.conv2d(x, weight, bias, padding=1) if layer == "conv3" else F.linear(x, weight, bias)


def by_tower(tensor: torch.Tensor, own_maps: int, tower: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split dimension 1 into (own tower's, peer's)."""
    edge = own_maps if tower == 0 else tensor.shape[1] - own_maps
    first, second = tensor[:, :edge], tensor[:, edge:]
    return (first, second) if tower == 0 else (second, first)


def in_order(own: torch.Tensor, peer: torch.Tensor, tower: int) -> torch.Tensor:
    """Both towers' maps, tower 0's first."""
    return torch.cat((own, peer) if tower == 0 else (peer, own), dim=1)


def gather_logits(own: torch.Tensor, exchange: Exchange, num_classes: int) -> torch.Tensor:
    """(N, own classes) -> (N, classes) in both processes, for a softmax over all of them."""
    logits: torch.Tensor = GatherLogits.apply(own, exchange, num_classes)  # type: ignore[no-untyped-call]
    return logits


class GatherLogits(torch.autograd.Function):
    """Both processes compute the whole loss from the whole logits, so each has the whole gradient already."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, exchange: Exchange, num_classes: int) -> torch.Tensor:
        ctx.tower, ctx.own_classes = exchange.towers[0], own.shape[1]
        peer = exchange.start(own, torch.Size((own.shape[0], num_classes - own.shape[1])))()
        return in_order(own, peer, ctx.tower)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return by_tower(gradients[0], ctx.own_classes, ctx.tower)[0], None, None
