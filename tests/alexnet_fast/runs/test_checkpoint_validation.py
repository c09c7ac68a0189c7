"""Files from strangers: whatever is in them, one sentence that names file and part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.inference.export import export
from alexnet_fast.inference.load import load_safetensors
from alexnet_fast.network.model import AlexNet, whole_state
from alexnet_fast.runs.checkpoint import FORMAT, Checkpoint, Mean, load_checkpoint, save_checkpoint
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UserError

PLACE = {"version": 1, "stream": {}, "epoch": 0, "pca_jitter": True, "batches": 1, "dali": None}


def good() -> Checkpoint:
    recipe = replace(load_recipe("2013"), width_divisor=16)
    model = AlexNet(recipe.architecture(3))
    model.initialize(0)
    tensors = whole_state(model)
    return Checkpoint(
        recipe=recipe,
        classes=(("a", "A"), ("b", "B"), ("c", "C")),
        dataset_fingerprint="f",
        image_options=ImageOptions(size=320),
        mean=Mean("image", torch.full((320, 320, 3), 100.0), torch.tensor([1.0, 2.0, 3.0])),
        model=tensors,
        optimizer={name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        step=5,
        steps_per_epoch=4,
        loaders=(PLACE,),
        scaler={"scale": 1.0, "good_steps": 0},
        error=0.25,
        best_error=0.25,
        totals=Totals("2026-01-01T00:00:00+00:00", energy_kwh=None),
    )


def test_a_strangers_objects_are_never_loaded(tmp_path: Path) -> None:
    """And no message says how to load them all the same."""
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"foreign.pt is no checkpoint of this program.*can run code") as raised:
        load_checkpoint(tmp_path / "foreign.pt")
    assert "weights_only" not in str(raised.value)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a good file holds."""
    file = tmp_path_factory.mktemp("good") / "good.pt"
    save_checkpoint(file, good())
    assert load_checkpoint(file).totals == good().totals and load_checkpoint(file).image_options.size == 320
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, dict)
    return loaded


def changed(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: content | values


def deeper(key: str, **values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: content | {key: content[key] | values}


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {name: value for name, value in content.items() if name != key}


FC8 = torch.zeros(3, 256)
BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "format a tensor": (changed(format=torch.tensor([1, 2])), "has format"),
    "an older format": (changed(format=FORMAT - 1), "has format"),
    "no step": (without("step"), "step"),
    "step a string": (changed(step="5"), "step is not"),
    "step negative": (changed(step=-1), "step is not"),
    "steps_per_epoch 0": (changed(steps_per_epoch=0), "steps_per_epoch"),
    "recipe None": (changed(recipe=None), "the recipe"),
    "recipe of another program": (changed(recipe={"lr": 1}), "no key 'lr'"),
    "recipe of tensors": (deeper("recipe", epochs=torch.zeros(2)), "epochs is"),
    "classes of numbers": (changed(classes=[[1, 2], [3, 4], [5, 6]]), "list of classes"),
    "classes a number": (changed(classes=7), "list of classes"),
    "one class": (changed(classes=[["a", "A"]]), "list of classes"),
    "fingerprint a number": (changed(dataset_fingerprint=7), "dataset_fingerprint"),
    "model None": (changed(model=None), "the weights"),
    "model a list": (changed(model=[FC8]), "the weights"),
    "model of strings": (deeper("model", **{"fc8.weight": "x"}), "fc8.weight in the weights"),
    "weights of another shape": (deeper("model", **{"fc8.weight": FC8[:2]}), "fc8.weight in the weights"),
    "complex weights": (deeper("model", **{"fc8.weight": FC8.to(torch.complex64)}), "fc8.weight in the weights"),
    "weights with NaN": (deeper("model", **{"fc8.weight": FC8 + float("nan")}), "fc8.weight in the weights"),
    "weights too many": (deeper("model", **{"fc9.weight": FC8}), "fc9.weight, which the network"),
    "weights missing": (lambda c: c | {"model": dict(list(c["model"].items())[1:])}, "is missing in the weights"),
    "infinite momentum": (deeper("optimizer", **{"fc8.weight": FC8 + float("inf")}), "fc8.weight in the momentum"),
    "momentum a number": (changed(optimizer=3), "the momentum"),
    "mean of strings": (changed(mean={"kind": "rgb", "image": None, "rgb": "blue"}), "mean color"),
    "mean of another kind": (deeper("mean", kind="median"), "mean is not"),
    "mean image small": (deeper("mean", image=torch.zeros(10, 10, 3)), "mean image"),
    "mean image of another size": (deeper("mean", image=torch.zeros(256, 256, 3)), "mean image"),
    "mean image missing": (deeper("mean", image=None), "mean image"),
    "mean with more": (deeper("mean", more=1), "more"),
    "image filter": (deeper("image_options", filter="blur"), "image filter"),
    "image size": (deeper("image_options", size=100), "image size"),
    "places of numbers": (changed(loaders=[1]), "places"),
    "scaler of strings": (changed(scaler={"scale": "x", "good_steps": 0}), "scaler"),
    "scaler cut": (changed(scaler={"scale": 1.0}), "scaler"),
    "best_error a string": (changed(best_error="low"), "best_error"),
    "best_error NaN": (changed(best_error=float("nan")), "best_error"),
    "totals None": (changed(totals=None), "totals"),
    "totals of strings": (deeper("totals", seconds="x"), "totals, seconds"),
    "totals negative": (deeper("totals", images=-1), "totals, images"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_crafted_checkpoints_are_refused_with_a_clear_message(
    name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    change, words = BAD[name]
    assert content["model"]["fc8.weight"].shape == FC8.shape
    torch.save(change(content), tmp_path / "crafted.pt")
    with pytest.raises(UserError, match=r"crafted\.pt") as caught:
        load_checkpoint(tmp_path / "crafted.pt")
    assert words in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("facts", [[], {}, None, {"step": "x"}, {"mean": "rgb"}])
def test_crafted_safetensors_are_refused_with_a_clear_message(facts: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file, _ = export(good(), tmp_path / "net.safetensors")
    assert load_safetensors(file).image_options == ImageOptions(size=320)
    tensors = load_file(file)
    save_file(tensors, file, {"alexnet_fast": json.dumps(facts)})
    with pytest.raises(UserError, match=r"net\.safetensors: a part of"):
        load_safetensors(file)
