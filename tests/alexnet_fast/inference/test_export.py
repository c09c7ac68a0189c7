"""Exported networks compute what ours computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alexnet_fast.commands.export_command import command
from alexnet_fast.config.recipe import Recipe, load_recipe, recipe_names
from alexnet_fast.inference.export import TOLERANCE, export, preprocessing
from alexnet_fast.inference.load import load_safetensors, mean_to_subtract
from alexnet_fast.network.model import AlexNet, load_whole_state, whole_state
from alexnet_fast.runs.checkpoint import Checkpoint, Mean, load_checkpoint, save_checkpoint
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UsageError, UserError

CLASSES = tuple((f"n{number:08d}", f"thing {number}") for number in range(7))


def checkpoint_of(recipe: Recipe) -> Checkpoint:
    """A network with lively values: the initialization alone would make every logit tiny."""
    model = AlexNet(recipe.architecture(len(CLASSES)))
    model.initialize(3)
    tensors = {name: tensor * (5 if "weight" in name else 1) for name, tensor in whole_state(model).items()}
    mean = Mean("image", torch.rand(256, 256, 3) * 255, torch.tensor([120.0, 110.0, 100.0]))
    return Checkpoint(
        recipe=recipe,
        classes=CLASSES,
        dataset_fingerprint="f",
        image_options=ImageOptions(),
        mean=mean,
        model=tensors,
        optimizer=None,
        step=12,
        steps_per_epoch=4,
        loaders=(),
        scaler={},
        error=None,
        best_error=None,
        totals=Totals("2026-01-01T00:00:00+00:00"),
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return 60 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "demo"])
def test_onnxruntime_computes_the_same_logits(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    checkpoint = checkpoint_of(replace(load_recipe(name), width_divisor=8))
    written = export(checkpoint, tmp_path / "net.onnx")
    model = AlexNet(checkpoint.architecture(), seed=None).eval()
    load_whole_state(model, checkpoint.model)
    with torch.inference_mode():
        ours = model(images)
    session = onnxruntime.InferenceSession(str(written[0]))
    pixels = images + mean_to_subtract(checkpoint.mean).permute(2, 0, 1)  # which the graph subtracts again
    (theirs,) = session.run(None, {"images": pixels.numpy()})
    assert ours.std() > 1e-3
    assert (torch.from_numpy(theirs) - ours).abs().max() <= TOLERANCE * ours.abs().max()
    beside = json.loads(written[1].read_text())
    assert [entry["label"] for entry in beside["classes"]] == [label for _, label in CLASSES]
    assert not [key for key in beside if "mean" in key]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == [label for _, label in CLASSES] and facts["net"] == checkpoint.recipe.name
    assert json.loads(facts["class_names"]) == [name for name, _ in CLASSES] and "in the graph" in facts["mean"]


def test_the_preprocessing_is_that_of_the_training_images() -> None:
    checkpoint = checkpoint_of(replace(load_recipe("2013"), width_divisor=16))
    resize = preprocessing(checkpoint)["resize"]
    assert resize.startswith("short side 256 (averaging over the area that each source pixel covers")
    assert resize.endswith("down, cubic up), center 256x256")
    assert "JPEG of quality 95 with 4:2:0 sampling" in preprocessing(checkpoint)["pixels"]
    other = replace(checkpoint, image_options=ImageOptions(size=320, filter="bilinear"))
    assert preprocessing(other)["resize"] == "short side 320 (bilinear down, cubic up), center 320x320"


def test_safetensors_come_back_whole(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(replace(load_recipe("2012"), width_divisor=8))
    file, card = export(checkpoint, tmp_path / "net.safetensors")
    assert "PlainAlexNet.from_checkpoint" in card.read_text(encoding="utf-8")
    back = load_safetensors(file)
    assert back.recipe == checkpoint.recipe
    assert back.classes == checkpoint.classes
    assert back.mean.image is not None and checkpoint.mean.image is not None
    assert torch.equal(back.mean.image, checkpoint.mean.image)
    assert back.model.keys() == checkpoint.model.keys()
    assert all(torch.equal(back.model[name], tensor) for name, tensor in checkpoint.model.items())


@pytest.mark.parametrize("name", ["2012", "2013"])
def test_safetensors_say_all_that_a_plain_reader_needs(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    """A network written from the metadata alone, with none of our code."""
    safetensors = pytest.importorskip("safetensors")
    checkpoint = checkpoint_of(replace(load_recipe(name), width_divisor=8))
    export(checkpoint, tmp_path / "net.safetensors")
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as opened:
        metadata, w = opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    assert metadata["format"] == "pt"
    net = json.loads(metadata["network"])

    def norm(x: torch.Tensor, layer: str) -> torch.Tensor:
        n = net["norm"]
        if layer not in n["layers"]:
            return x
        parts = [F.local_response_norm(p, n["size"], n["alpha"], n["beta"], n["k"]) for p in x.chunk(n["towers"], 1)]
        return torch.cat(parts, 1)

    def layers(x: torch.Tensor, layer: str, then: list[str]) -> torch.Tensor:
        for step in then:
            if step == "activation":
                x = F.relu(x) if net["activation"] == "relu" else torch.tanh(x)
            elif step == "norm":
                x = norm(x, layer)
            elif step == "pool":
                x = F.max_pool2d(x, net["pool"]["max"], net["pool"]["stride"], ceil_mode=net["pool"]["ceil_mode"])
            elif net["spatial norm"]:
                x = x / (1 + 1e-3 * F.avg_pool2d(x * x, 5, 1, 2)) ** 0.75
        return x

    x = F.conv2d(F.pad(images, net["conv1"]["padding_left_right_top_bottom"]), w["conv1.weight"], w["conv1.bias"], 4)
    x = layers(x, "conv1", net["conv1"]["then"])
    for layer in ("conv2", "conv3", "conv4", "conv5"):
        of = net[layer]
        x = F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], padding=of["padding"], groups=of["groups"])
        x = layers(x, layer, of["then"])
    for layer in ("fc6", "fc7"):
        x = F.relu(F.linear(x.flatten(1), w[f"{layer}.weight"].flatten(1), w[f"{layer}.bias"]))
        x = x * float(net[layer].rpartition(" ")[2])
    logits = F.linear(x, w["fc8.weight"].flatten(1), w["fc8.bias"])
    model = AlexNet(checkpoint.architecture(), seed=None).eval()
    load_whole_state(model, checkpoint.model)
    with torch.inference_mode():
        ours = model(images)
    assert (logits - ours).abs().max() <= 1e-5 * ours.abs().max()


def test_a_note_of_ones_own_is_not_replaced_by_a_card(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(replace(load_recipe("2013"), width_divisor=16))
    (tmp_path / "net.md").write_text("my notes")
    with pytest.raises(UsageError, match=r"net\.md is there and was not written by an export"):
        export(checkpoint, tmp_path / "net.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["net.md"]
    (tmp_path / "net.md").unlink()
    export(checkpoint, tmp_path / "net.safetensors")
    export(checkpoint, tmp_path / "net.safetensors")


def test_checkpoints_come_back_whole(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(replace(load_recipe("2013"), width_divisor=8))
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    back = load_checkpoint(tmp_path / "a.pt")
    assert back.recipe == checkpoint.recipe and back.classes == checkpoint.classes and back.step == 12
    assert all(torch.equal(back.model[name], tensor) for name, tensor in checkpoint.model.items())
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("damage", ["short", "flipped", "text", "other tensors", "missing", "folder"])
def test_bad_checkpoints_are_refused(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    save_checkpoint(file, checkpoint_of(replace(load_recipe("2013"), width_divisor=16)))
    content = bytearray(file.read_bytes())
    if damage == "short":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "text":
        file.write_text("not a checkpoint")
    elif damage == "other tensors":
        torch.save({"weight": torch.zeros(3)}, file)
    elif damage == "missing":
        file.unlink()
    elif damage == "folder":
        file = tmp_path
    with pytest.raises(UserError, match=str(file)):
        load_checkpoint(file)


@pytest.mark.parametrize("name", ["net.pb", "net", "nowhere/net.onnx"])
def test_where_it_cannot_go(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out"):
        export(checkpoint_of(replace(load_recipe("2013"), width_divisor=16)), tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_disk_that_takes_nothing(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export that was there stays, nothing half-written lies beside it."""
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    file = tmp_path / f"net{suffix}"
    file.write_text("the one before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        export(checkpoint_of(replace(load_recipe("2013"), width_divisor=16)), file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_text() == "the one before"


def test_a_json_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    checkpoint = checkpoint_of(replace(load_recipe("2013"), width_divisor=16))
    export(checkpoint, tmp_path / "net.onnx")
    export(checkpoint, tmp_path / "net.onnx")  # its own it may write anew
    for text in ('{"classes": []}', "[]", "no JSON"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(UsageError, match=r"dataset\.json is there and was not written by an export"):
            export(checkpoint, tmp_path / "dataset.onnx")
        assert (tmp_path / "dataset.json").read_text() == text
        assert not (tmp_path / "dataset.onnx").exists()


def test_the_help_states_the_tolerance_that_is_tested() -> None:
    stated = f"at most {TOLERANCE:g}".replace("0.0001", "1e-4")
    assert stated in " ".join((command.help or "").split())
