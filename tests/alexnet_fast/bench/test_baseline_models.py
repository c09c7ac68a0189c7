"""What we are measured against is what people use."""

from __future__ import annotations

import torch

from alexnet_fast.bench.baseline_models import PlainStep, torchvision_alexnet


def test_torchvisions_has_its_size() -> None:
    network = torchvision_alexnet(1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 61_100_840  # as torchvision documents it
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_a_plain_step_trains() -> None:
    layer = torch.nn.Linear(12, 3)
    network = torch.nn.Sequential(torch.nn.Flatten(), layer)
    step = PlainStep(network, torch.device("cpu"), torch.bfloat16, compiled=False)
    before = layer.weight.detach().clone()
    loss = step(torch.ones(2, 3, 2, 2), torch.tensor([0, 2]))
    assert loss.isfinite()
    assert not torch.equal(layer.weight, before)
