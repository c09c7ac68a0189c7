"""Weights to start from: our own checkpoints, and Caffe's AlexNet against a network built as Caffe's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.inference.export import export
from alexnet_fast.inference.pretrained import from_caffe, load_pretrained
from alexnet_fast.network.model import LAYERS, NETS, AlexNet, Architecture, load_whole_state, small
from alexnet_fast.runs.checkpoint import load_checkpoint, resolve_checkpoint
from alexnet_fast.tools.errors import UsageError, UserError

SMALL = replace(small(NETS["caffe"], 8, 224, 10))
TEN = tuple((f"c{number}", f"c{number}") for number in range(10))


@pytest.fixture
def small_net(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    monkeypatch.setitem(NETS, "caffe", SMALL)
    return SMALL


def caffe_arrays(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Weights of a narrow AlexNet in Caffe's layout, large enough that the norms matter."""
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for layer, shape in SMALL.weight_shapes.items():
        fan_in = int(np.prod(shape[1:]))
        flat = (shape[0], fan_in) if layer.startswith("fc") else shape
        arrays[f"{layer}.weight"] = (random.standard_normal(flat) * np.sqrt(2 / fan_in)).astype(np.float32)
        arrays[f"{layer}.bias"] = (0.1 * random.standard_normal(shape[0])).astype(np.float32)
    return arrays


def caffe_forward(arrays: dict[str, np.ndarray[Any, Any]], bgr_227: torch.Tensor, *, norm_groups: int) -> torch.Tensor:
    """Caffe's bvlc_alexnet/deploy.prototxt in float64; norm_groups 1: its norms, which cross the halves of the maps."""
    w = {name: torch.from_numpy(value).double() for name, value in arrays.items()}

    def norm(x: torch.Tensor) -> torch.Tensor:
        parts = [F.local_response_norm(part, 5, alpha=1e-4, beta=0.75, k=1.0) for part in x.chunk(norm_groups, 1)]
        return torch.cat(parts, 1)

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = pool(norm(F.conv2d(bgr_227, w["conv1.weight"], w["conv1.bias"], stride=4).relu()))
    x = pool(norm(F.conv2d(x, w["conv2.weight"], w["conv2.bias"], padding=2, groups=2).relu()))
    x = F.conv2d(x, w["conv3.weight"], w["conv3.bias"], padding=1).relu()
    x = F.conv2d(x, w["conv4.weight"], w["conv4.bias"], padding=1, groups=2).relu()
    x = pool(F.conv2d(x, w["conv5.weight"], w["conv5.bias"], padding=1, groups=2).relu())
    x = F.linear(x.flatten(1), w["fc6.weight"], w["fc6.bias"]).relu()
    x = F.linear(x, w["fc7.weight"], w["fc7.bias"]).relu()
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


@pytest.mark.parametrize(("norm_groups", "tolerance"), [(2, 1e-6), (1, 0.05)])
def test_caffes_network_is_computed(norm_groups: int, tolerance: float, small_net: Architecture) -> None:
    """Exactly, but for the norms' reach over the halves, which the second case measures."""
    arrays = caffe_arrays()
    images = torch.from_numpy(np.random.default_rng(1).uniform(-120, 130, (2, 3, 224, 224)))
    tensors = {name: tensor.double() for name, tensor in from_caffe(arrays, Path("net.npz"), 0.5).items()}
    model = AlexNet(small_net).double().eval()
    load_whole_state(model, tensors)
    with torch.no_grad():
        own = model(images.contiguous(memory_format=torch.channels_last))
    expected = caffe_forward(arrays, F.pad(images, (0, 3, 0, 3)).flip(1), norm_groups=norm_groups)
    assert float((own - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_both_kinds_of_files_are_read(suffix: str, small_net: Architecture, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    file, arrays = tmp_path / f"net{suffix}", caffe_arrays()
    if suffix == ".npz":
        np.savez(file, **arrays)  # type: ignore[arg-type]
    else:
        save_file(arrays, file)
    found = load_pretrained(file, replace(small_net, num_classes=3), "caffe", TEN[:3])
    assert not any(name.startswith("fc8") for name in found.tensors)
    assert "fc8 starts from random weights, for 3 classes" in " ".join(found.notes)
    assert "ours end at each tower" in found.notes[0]
    np.testing.assert_array_equal(found.tensors["conv1.weight"].numpy(), arrays["conv1.weight"][:, ::-1])


def test_damaged_or_other_weights_are_refused(small_net: Architecture, tmp_path: Path) -> None:
    arrays = caffe_arrays()
    with pytest.raises(UserError, match=r"has no conv1\.weight"):
        from_caffe({}, tmp_path, 0.5)
    with pytest.raises(UserError, match=r"conv3\.bias holds NaN"):
        from_caffe(arrays | {"conv3.bias": arrays["conv3.bias"] * np.nan}, tmp_path, 0.5)
    with pytest.raises(UserError, match=r"conv2\.weight is .* in Caffe's AlexNet it is \(32, 6, 5, 5\)"):
        from_caffe(arrays | {"conv2.weight": arrays["conv2.weight"][:, :3]}, tmp_path, 0.5)
    with pytest.raises(UserError, match=r"conv3\.bias is \(\); in Caffe's AlexNet it is \(48\)"):
        from_caffe(arrays | {"conv3.bias": np.float32(0)}, tmp_path, 0.5)
    with pytest.raises(UserError, match=r"fc7\.weight holds int64"):
        from_caffe(arrays | {"fc7.weight": arrays["fc7.weight"].astype(np.int64)}, tmp_path, 0.5)
    np.savez(tmp_path / "net.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--set network=caffe"):
        load_pretrained(tmp_path / "net.npz", small_net, "167", TEN)
    content = (tmp_path / "net.npz").read_bytes()
    (tmp_path / "net.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"no \.npz file, or it was cut short"):
        load_pretrained(tmp_path / "net.npz", small_net, "caffe", TEN)
    with pytest.raises(UsageError, match="there is no such file"):
        load_pretrained(tmp_path / "none.npz", small_net, "caffe", TEN)


@pytest.mark.parametrize("layer", ["conv1", "conv4", "fc6", "fc8"])
def test_weights_in_another_order_are_refused(layer: str, small_net: Architecture, tmp_path: Path) -> None:
    """The same numbers as TensorFlow stores them, (H, W, in, out) and (in, out), would be another network."""
    arrays = caffe_arrays()
    weight = arrays[f"{layer}.weight"]
    turned = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
    with pytest.raises(UserError, match=rf"{layer}\.weight is .* outputs before inputs"):
        from_caffe(arrays | {f"{layer}.weight": turned}, tmp_path, 0.5)


def test_blobs_of_early_caffe_with_four_axes_are_read(small_net: Architecture, tmp_path: Path) -> None:
    arrays = caffe_arrays()
    early = {name: value.reshape((1,) * (4 - value.ndim) + value.shape) for name, value in arrays.items()}
    expected, found = from_caffe(arrays, tmp_path, 0.5), from_caffe(early, tmp_path, 0.5)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_file_in_bfloat16_is_read_as_the_numbers_it_holds(small_net: Architecture, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    halves = {name: torch.from_numpy(value).bfloat16() for name, value in caffe_arrays().items()}
    save_file(halves, tmp_path / "net.safetensors")
    found = load_pretrained(tmp_path / "net.safetensors", small_net, "caffe", TEN).tensors
    assert torch.equal(found["conv1.weight"], halves["conv1.weight"].float().flip(1))


@pytest.mark.parametrize("exported", [False, True])
def test_our_own_weights_keep_fc8_only_for_the_same_classes(exported: bool, small_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(resolve_checkpoint(small_run))
    source = small_run
    if exported:
        source, *_ = export(checkpoint, tmp_path / "net.safetensors")
    architecture = checkpoint.architecture()
    same = load_pretrained(source, architecture, "167", checkpoint.classes)
    assert all(torch.equal(same.tensors[name], tensor) for name, tensor in checkpoint.model.items())
    other = load_pretrained(source, replace(architecture, num_classes=3), "167", TEN[:3])
    assert {name.split(".")[0] for name in other.tensors} == set(LAYERS) - {"fc8"}
    turned = load_pretrained(source, architecture, "167", tuple(reversed(checkpoint.classes)))
    assert "fc8.weight" not in turned.tensors
    with pytest.raises(UsageError, match=r"maps .*, here .*Give .* --set network=167 --set width_divisor=16"):
        load_pretrained(source, load_recipe("2013").architecture(10), "167", checkpoint.classes)


@pytest.mark.parametrize("setting", ["norms=none", "activation=tanh", "network=145"])
def test_weights_of_another_network_that_fit_are_refused(setting: str, small_run: Path) -> None:
    """Norms, pooling and activation have no weights: every tensor has the right shape."""
    checkpoint = load_checkpoint(resolve_checkpoint(small_run))
    other = load_recipe("2013", ["width_divisor=16", setting]).architecture(10)
    assert other.weight_shapes == checkpoint.architecture().weight_shapes
    with pytest.raises(UsageError, match=r"trained as another network \(.*, here .*--set network=167 --set width"):
        load_pretrained(small_run, other, "167", checkpoint.classes)


def test_another_dropout_is_named(small_run: Path) -> None:
    checkpoint = load_checkpoint(resolve_checkpoint(small_run))
    found = load_pretrained(small_run, replace(checkpoint.architecture(), dropout=0.0), "167", checkpoint.classes)
    assert "fc6 and fc7 by 1 now, and by 0.5 then" in " ".join(found.notes)
    same = load_pretrained(small_run, checkpoint.architecture(), "167", checkpoint.classes)
    assert len(same.notes) == 1
