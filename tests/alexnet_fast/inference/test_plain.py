"""The ordinary PyTorch module is the same network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.network.model import NETS, AlexNet, small


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("image_size", [224, 99])
def test_it_computes_what_ours_does(net: str, image_size: int) -> None:
    architecture = small(NETS[net], 16, image_size=image_size)
    ours = AlexNet(architecture, seed=3).double().eval()
    plain = PlainAlexNet.from_state(architecture, ours.state_dict()).double()
    images = torch.randn(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).double() * 60
    with torch.no_grad():
        torch.testing.assert_close(plain(images), ours(images), rtol=1e-9, atol=1e-12)


def test_its_gradients_are_ours_without_dropout() -> None:
    architecture = replace(small(NETS["145"], 16), dropout=0.0)
    ours = AlexNet(architecture, seed=5).double()
    plain = PlainAlexNet.from_state(architecture, ours.state_dict()).double().train()
    images = torch.randn(2, 3, 67, 67, generator=torch.Generator().manual_seed(0)).double() * 60
    for network in (ours, plain):
        network(images).square().sum().backward()
    for name, parameter in ours.named_parameters():
        gradient = plain.get_parameter(name).grad
        assert gradient is not None and parameter.grad is not None
        torch.testing.assert_close(gradient.reshape(parameter.shape), parameter.grad, rtol=1e-8, atol=1e-14)


def test_dropout_scales_nothing_in_training_and_halves_in_evaluation() -> None:
    plain = PlainAlexNet(small(NETS["167"]))
    x = torch.ones(64, 512)
    dropped = plain.train().dropout(x)
    assert set(dropped.unique().tolist()) == {0.0, 1.0} and 0.45 < float(dropped.mean()) < 0.55
    assert plain.eval().dropout(x).unique().tolist() == [0.5]


def test_a_checkpoint_becomes_one(small_run: Path) -> None:
    from alexnet_fast import load

    plain, ours = PlainAlexNet.from_checkpoint(small_run), load(small_run, device="cpu")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60
    with torch.no_grad():
        torch.testing.assert_close(plain(images), ours.model(images), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.plain()(images), plain(images), rtol=0, atol=0)
    assert not plain.training
