"""A convolution in groups, one group for each tower, in three ways that compute the same.

cuDNN's channels-last kernels for several groups can be slower than kernels that do twice the work, or than two calls;
which of the three is fastest depends on the layer, the GPU and cuDNN's version.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

Strategy = Literal["grouped", "dense", "split"]
"""grouped: one call with groups.  dense: one call without, its weight block-diagonal, twice the multiplications for two
groups.  split: a call for each group, and a copy that joins their maps."""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    padding: int,
    groups: int,
    strategy: Strategy = "grouped",
) -> torch.Tensor:
    """(N, M, H, W), weight (C, M / groups, k, k), bias (C,) -> (N, C, h, w), stride 1, channels-last.

    The weight and its gradient are those of the grouped form, whatever the strategy.  Where a number of one group's
    maps is not finite, "dense" makes the other groups' outputs NaN there too.
    """
    if groups == 1 or strategy == "grouped":
        return F.conv2d(x, weight, bias, padding=padding, groups=groups)
    if strategy == "dense":
        return F.conv2d(x, block_diagonal(weight, groups), bias, padding=padding)
    biases = [None] * groups if bias is None else bias.chunk(groups)
    parts = zip(x.chunk(groups, dim=1), weight.chunk(groups), biases, strict=True)
    return torch.cat([F.conv2d(own_x, own_w, own_b, padding=padding) for own_x, own_w, own_b in parts], dim=1)


def block_diagonal(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(C, M, k, k) of a convolution in groups -> (C, M · groups, k, k): zero where an output does not see a map."""
    maps = weight.shape[1]
    blocks = (
        F.pad(own, (0, 0, 0, 0, maps * group, maps * (groups - 1 - group)))
        for group, own in enumerate(weight.chunk(groups))
    )
    return torch.cat(list(blocks))
