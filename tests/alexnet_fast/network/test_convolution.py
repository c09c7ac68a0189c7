"""A grouped convolution computed in three ways: the same numbers, gradients and layout, in every dtype and shape."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from alexnet_fast.network.convolution import STRATEGIES, Strategy, block_diagonal, convolve
from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.model import NETS, AlexNet, small

OTHERS = [strategy for strategy in STRATEGIES if strategy != "grouped"]
SHAPES = {"conv2": (6, 10, 5, 2), "conv4": (12, 8, 3, 1), "conv5, net 147": (8, 6, 3, 0), "one map": (2, 2, 3, 1)}
"""Maps seen, maps, pixels of the kernel, padding."""


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


def output_and_gradients(
    strategy: Strategy, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int
) -> list[torch.Tensor]:
    """Of leaves of their own, so that each has a `grad` as in training."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    y = convolve(leaves[0], leaves[1], leaves[2], padding, 2, strategy)
    y.backward(random(*y.shape, seed=9).to(y.dtype))  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == 3
    return [y.detach(), *gradients]


def by_hand(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """In float64, by products of unfolded windows, tower by tower: no convolution of torch's is involved."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    wide, kernels, biases = leaves
    num, _, height, width = x.shape
    k = weight.shape[2]
    parts = []
    for own_x, own_w, own_b in zip(wide.chunk(2, 1), kernels.chunk(2), biases.chunk(2), strict=True):
        windows = F.unfold(own_x, k, padding=padding)
        maps = own_w.reshape(len(own_w), -1) @ windows + own_b[:, None]
        parts.append(maps.view(num, len(own_w), height + 2 * padding - k + 1, width + 2 * padding - k + 1))
    y = torch.cat(parts, 1)
    y.backward(random(*y.shape, seed=9).to(x.dtype).double())  # type: ignore[no-untyped-call]
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
def test_every_strategy_is_the_same_convolution(
    strategy: Strategy, shape: str, images: int, dtype: torch.dtype, tolerance: float
) -> None:
    seen, maps, kernel, padding = SHAPES[shape]
    x = random(images, seen, 7, 9, dtype=dtype)
    weight, bias = random(maps, seen // 2, kernel, kernel, dtype=dtype, seed=1), random(maps, dtype=dtype, seed=2)
    found = output_and_gradients(strategy, x, weight, bias, padding)
    for ours, exact in zip(found, by_hand(x, weight, bias, padding), strict=True):
        assert ours.dtype == dtype and ours.shape == exact.shape
        assert float((ours.double() - exact).abs().max()) <= tolerance * float(exact.abs().max())
    # Maps stay channels-last, and a gradient lies as its weight does: the update and the all-reduce rely on it.
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[2].is_contiguous(memory_format=torch.channels_last)


def test_a_dense_weight_has_nothing_between_the_groups() -> None:
    weight = random(4, 3, 2, 2).detach()
    dense = block_diagonal(weight, 2)
    assert dense.shape == (4, 6, 2, 2) and dense.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dense[:2, :3], weight[:2]) and torch.equal(dense[2:, 3:], weight[2:])
    assert not dense[:2, 3:].any() and not dense[2:, :3].any()


@pytest.mark.parametrize("strategy", OTHERS)
@pytest.mark.parametrize("net", ["145", "150"])
def test_a_network_is_the_same_with_any_strategy(net: str, strategy: Strategy) -> None:
    """And its parameters are: a checkpoint does not know how it was trained.  Net 150's conv3 is grouped too."""
    model = AlexNet(small(NETS[net], num_classes=11)).double()
    images = random(2, 3, 67, 67).detach() * 60
    grouped = ["conv2", "conv4", "conv5", *(["conv3"] if net == "150" else [])]
    called: list[str] = []

    def gradients(convolutions: dict[str, Strategy]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        logits = model(images, DropoutKey(torch.tensor(7)), convolutions=convolutions)
        called.extend(convolutions)
        logits.pow(2).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected, found = gradients({}), gradients(dict.fromkeys(grouped, strategy))
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) <= 1e-9 * float(tensor.abs().max()), name


def test_a_network_computes_each_layer_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, strategies that reach no layer would pass as equal."""
    seen: list[tuple[int, Strategy]] = []

    def noted(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int, groups: int, strategy: Strategy
    ) -> torch.Tensor:
        seen.append((groups, strategy))
        return convolve(x, weight, bias, padding, groups, strategy)

    monkeypatch.setattr("alexnet_fast.network.convolution.convolve", noted)
    images = random(1, 3, 67, 67).detach().float()
    how: dict[str, Strategy] = {"conv2": "dense", "conv3": "split", "conv4": "split", "conv5": "dense"}
    AlexNet(small(NETS["150"])).eval()(images, convolutions=how)
    # conv1 sees the image, whole.
    assert seen == [(1, "grouped"), (2, "dense"), (2, "split"), (2, "split"), (2, "dense")]
    seen.clear()
    AlexNet(small(NETS["167"])).eval()(images)
    assert seen == [(1, "grouped"), (2, "grouped"), (1, "grouped"), (2, "grouped"), (2, "grouped")]
