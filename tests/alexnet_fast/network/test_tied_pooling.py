"""Max pooling whose gradient goes to all tied maxima, against loops in plain Python."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.network.tied_pooling import tied_max_pool


@pytest.mark.parametrize(("size", "pool_size"), [(7, 3), (8, 3), (7, 2), (8, 2), (3, 3), (13, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_tied_maximum_gets_the_gradient(size: int, pool_size: int, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(-2, 3, (2, 3, size, size), generator=generator).double()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    y = tied_max_pool(x.requires_grad_(), pool_size)
    gradient = torch.randint(1, 9, y.shape, generator=generator).double()
    (dx,) = torch.autograd.grad(y, x, gradient)

    outputs = 1 + -(-(size - pool_size) // 2)
    expected, tied = torch.zeros_like(x), 0
    assert y.shape == (2, 3, outputs, outputs)
    for i in range(outputs):
        for j in range(outputs):
            window = (..., slice(2 * i, 2 * i + pool_size), slice(2 * j, 2 * j + pool_size))
            highest = x.detach()[window].amax((-1, -2), keepdim=True)
            assert torch.equal(y.detach()[..., i : i + 1, j : j + 1], highest)
            equal = x.detach()[window] == highest
            tied += int((equal.sum((-1, -2)) > 1).sum())
            expected[window] += equal * gradient[..., i : i + 1, j : j + 1]
    assert tied > 0
    assert torch.equal(dx, expected)


@pytest.mark.parametrize("net", ["145", "147", "148", "paper"])
def test_without_ties_the_network_trains_the_same(net: str) -> None:
    """Zeros are tied all over, but the ReLU stops their gradient: both poolings give the same gradients."""
    architecture = small(NETS[net])
    images = torch.randn(2, 3, 67, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 50
    results = []
    for all_ties in (False, True):
        model = AlexNet(replace(architecture, all_ties=all_ties)).double()
        model.initialize(1)
        logits = model(images, DropoutKey(torch.tensor(3)))
        results.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
