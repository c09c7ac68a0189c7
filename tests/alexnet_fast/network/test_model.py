"""The network's parameter count, initialization, dropout and layouts, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alexnet_fast.network.dropout import DropoutKey, dropout_mask, step_key
from alexnet_fast.network.model import NETS, NORMS, AlexNet, Architecture, load_whole_state, small, whole_state
from alexnet_fast.tools.errors import UsageError


@pytest.fixture(scope="module")
def full_size() -> AlexNet:
    model = AlexNet(NETS["145"])
    model.initialize(seed=3)
    return model.double()


def test_parameter_count(full_size: AlexNet) -> None:
    assert sum(parameter.numel() for parameter in full_size.parameters()) == 60_965_224


def test_start_values(full_size: AlexNet) -> None:
    for name, parameter in full_size.named_parameters():
        layer, kind = name.split(".")
        if kind == "bias":
            value = 1.0 if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
            assert (parameter == value).all()
        else:
            sigma = 0.03 if layer in ("conv3", "conv4", "conv5") else 0.01
            assert float(parameter.detach().std()) == pytest.approx(sigma, rel=0.02)
            assert abs(float(parameter.detach().mean())) < 4 * sigma / parameter.numel() ** 0.5


def test_start_values_follow_the_seed() -> None:
    nets = [AlexNet(small(NETS["167"])) for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        net.initialize(seed)
    assert torch.equal(nets[0].conv3.weight, nets[1].conv3.weight)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(nets[0].conv3.weight, nets[2].conv3.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("net", NETS)
def test_every_net_trains_a_step(net: str) -> None:
    architecture = small(NETS[net])
    model = AlexNet(architecture)
    model.initialize(0)
    logits = model(torch.randn(3, 3, 67, 67) * 50, DropoutKey(torch.tensor(5)))
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("net", NETS)
def test_biases_added_by_the_layer_after_a_convolution(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the same logits and gradients."""
    architecture = small(NETS[net])
    images = torch.randn(2, 3, 67, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 50
    results = []
    for later in (False, True):
        monkeypatch.setattr("alexnet_fast.network.layers.bias_comes_later", lambda x, later=later: later)
        model = AlexNet(architecture).double()
        model.initialize(1)
        for layer in ("conv1", "conv2", "conv5"):
            model.get_parameter(f"{layer}.bias").data.uniform_(-2, 2, generator=torch.Generator().manual_seed(2))
        logits = model(images, DropoutKey(torch.tensor(3)))
        results.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_map_sizes() -> None:
    assert NETS["145"].map_sizes == (55, 27, 27, 13, 13, 13, 6)
    assert NETS["147"].map_sizes == (55, 28, 26, 13, 13, 11, 6)


def test_towers_of_net_150_never_meet_before_fc8() -> None:
    model = AlexNet(small(NETS["150"]))
    model.initialize(0)
    seen: dict[str, torch.Tensor] = {}

    def watch(layer: str, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            output.retain_grad()
        seen[layer] = output

    model(torch.randn(2, 3, 67, 67) * 50, DropoutKey(torch.tensor(1)), observe=watch)
    units = seen["fc7"].shape[1]
    seen["fc7"][:, : units // 2].sum().backward()  # type: ignore[no-untyped-call]
    maps = seen["conv2"].shape[1]
    gradient = seen["conv2"].grad
    assert gradient is not None
    assert gradient[:, : maps // 2].abs().sum() > 0
    assert gradient[:, maps // 2 :].abs().sum() == 0


def test_layouts_stay_channels_last() -> None:
    """No layer may turn the layout round: every map is dense with its channels innermost."""
    model = AlexNet(small(NETS["145"]))
    model.initialize(0)

    def watch(layer: str, output: torch.Tensor) -> None:
        if output.dim() == 4:
            assert output.is_contiguous(memory_format=torch.channels_last), layer

    model(torch.randn(2, 3, 67, 67).contiguous(memory_format=torch.channels_last), observe=watch)


def test_dropout_halves_at_test_and_zeroes_in_training() -> None:
    model = AlexNet(small(NETS["167"])).eval()
    outputs: dict[bool, torch.Tensor] = {}
    images = torch.randn(8, 3, 67, 67) * 50
    for training in (False, True):
        key = DropoutKey(torch.tensor(step_key(1, 2))) if training else None
        model(images, key, observe=lambda layer, x, t=training: outputs.update({t: x}) if layer == "fc6" else None)
    test, trained = outputs[False], outputs[True]
    dropped = (trained == 0) & (test > 0)
    assert 0.4 < dropped.float().sum() / (test > 0).float().sum() < 0.6
    torch.testing.assert_close(trained[~dropped], 2 * test[~dropped])


def test_inverted_dropout_is_that_of_pytorch() -> None:
    """Training divides what it keeps, testing changes nothing; the masks are those of the other variant."""
    outputs: dict[tuple[bool, bool], torch.Tensor] = {}
    images = torch.randn(4, 3, 67, 67, generator=torch.Generator().manual_seed(0)) * 50
    for inverted in (False, True):
        model = AlexNet(replace(small(NETS["167"]), dropout=0.25, dropout_inverted=inverted))
        model.initialize(0)
        model.eval()
        for training in (False, True):
            key = DropoutKey(torch.tensor(step_key(1, 2))) if training else None
            place = (inverted, training)
            model(images, key, observe=lambda layer, x, p=place: outputs.update({p: x}) if layer == "fc6" else None)
    torch.testing.assert_close(outputs[True, True], outputs[False, True] / 0.75)
    torch.testing.assert_close(outputs[True, False], outputs[False, False] / 0.75)
    assert NETS["145"].test_scale == 0.5
    assert replace(NETS["145"], dropout_inverted=True).test_scale == 1.0


def test_dropout_masks_are_the_same_in_any_topology() -> None:
    key = torch.tensor(step_key(7, 123))
    whole = dropout_mask(DropoutKey(key), 6, 8, 64, 0, 0.5)
    quarter = dropout_mask(DropoutKey(key, first_row=4), 6, 4, 32, 32, 0.5)
    assert torch.equal(whole[4:, 32:], quarter)
    other = dropout_mask(DropoutKey(torch.tensor(step_key(7, 124))), 6, 8, 64, 0, 0.5)
    assert not torch.equal(whole, other)


def test_dropout_masks_look_random() -> None:
    masks = torch.stack(
        [dropout_mask(DropoutKey(torch.tensor(step_key(0, step))), 6, 64, 512, 0, 0.5).double() for step in range(8)]
    )
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.005)
    centered = masks - 0.5
    for shifted in (centered.roll(1, 0), centered.roll(1, 1), centered.roll(1, 2), centered.roll(32, 2)):
        assert abs(float((centered * shifted).mean()) * 4) < 0.01
    assert float(dropout_mask(DropoutKey(torch.tensor(1)), 7, 64, 512, 0, 0.25).double().mean()) == pytest.approx(
        0.75, abs=0.01
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 1}, "at least 2 classes"),
        ({"norms": ("conv3",)}, "conv1, conv2, conv2-spatial"),
        ({"activation": "gelu"}, "relu"),
        ({"maps": (97, 256, 384, 384, 256)}, "97"),
        ({"image_size": 35}, "too small"),
        ({"num_towers": 3}, "choose 1 or 2"),
    ],
)
def test_wrong_architectures_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(Architecture(), **changes)  # type: ignore[arg-type]


def test_state_of_another_architecture_is_refused() -> None:
    model = AlexNet(small(NETS["167"]))
    with pytest.raises(UsageError, match="fc8"):
        load_whole_state(model, whole_state(AlexNet(small(NETS["167"], num_classes=11))))


def test_norms_are_named() -> None:
    assert NETS["145"].norms == NORMS
