"""Layers' gradients against finite differences, and their values against torch's own where torch has them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from alexnet_fast.network import layers


def maps(*shape: int, scale: float = 1.0) -> torch.Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("towers", [1, 2])
def test_local_response_norm_gradient(towers: int, relu: bool) -> None:
    # The scale makes the sum of squares matter beside 2.
    x = maps(2, 14, 3, 2, scale=30.0)
    assert torch.autograd.gradcheck(lambda t: layers.local_response_norm((t, None), towers, 1e-2, relu=relu), (x,))


def test_spatial_norm_gradient() -> None:
    assert torch.autograd.gradcheck(layers.spatial_norm, (maps(2, 3, 7, 6, scale=30.0),))


def test_local_response_norm_is_torchs_for_each_tower() -> None:
    x = maps(2, 16, 5, 5, scale=40.0)
    expected = torch.cat([F.local_response_norm(half, 5, 1e-4, 0.75, 2.0) for half in x.chunk(2, dim=1)], dim=1)
    torch.testing.assert_close(layers.local_response_norm((x, None), 2, 1e-4, relu=False), expected)


@pytest.mark.parametrize("size", [224, 67, 35, 64])
def test_conv1_is_a_strided_convolution(size: int) -> None:
    images = maps(2, 3, size, size)
    weight, bias = maps(6, 3, 11, 11), torch.randn(6, dtype=torch.float64)
    after = (layers.conv1_size(size) - 1) * 4 + 11 - size
    expected = F.conv2d(F.pad(images, (0, after, 0, after)), weight, bias, stride=4)
    torch.testing.assert_close(layers.biased(layers.conv1(images, weight, bias)), expected)


def test_conv1_weight_gradient() -> None:
    images = maps(1, 3, 19, 19).detach()
    weight, bias = maps(2, 3, 11, 11), torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, b: layers.biased(layers.conv1(images, w, b)), (weight, bias))


def test_flat_copies_nothing() -> None:
    x = maps(2, 4, 3, 3).detach()
    flat = layers.flat(x)
    assert flat.shape == (2, 36)
    assert flat.data_ptr() == x.data_ptr()
    assert torch.equal(layers.unflat(flat, x.shape), x)
