"""What we are measured against computes the same network."""

from __future__ import annotations

import pytest
import torch

from alexnet_fast.bench.baseline_models import PlainAlexNet, PlainStep, torchvision_alexnet
from alexnet_fast.network.model import NETS, AlexNet


@pytest.mark.parametrize("net", ["145", "167"])
def test_the_plain_port_is_our_network(net: str) -> None:
    ours = AlexNet(NETS[net])
    ours.initialize(0)
    plain = PlainAlexNet(NETS[net]).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            own: torch.Tensor = parameter
            if name == "fc6.weight":
                own = parameter.flatten(1)
            elif name in ("fc7.weight", "fc8.weight"):
                own = parameter * 0.5  # testing, nn.Dropout does nothing where the authors' halves
            plain.get_parameter(name).copy_(own)
        images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60
        torch.testing.assert_close(plain(images), ours(images), rtol=1e-4, atol=1e-5)


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
