"""Is everything in a checkpoint of the kind and size that the program counts on?  Files come from strangers too."""

from __future__ import annotations

import math
from typing import Any

import torch

from alexnet_fast.network.model import Architecture
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.numbers import is_number
from alexnet_fast.tools.sharding.image import FILTERS


def check_values(content: dict[str, Any]) -> None:
    """Everything but the recipe's values and the weights' sizes; ValueError that names the part, KeyError."""
    want(isinstance(content["recipe"], dict), "the recipe")
    check_class_list(content["classes"])
    want(isinstance(content["dataset_fingerprint"], str), "dataset_fingerprint")
    want(is_count(content["step"]), "step")
    want(is_count(content["steps_per_epoch"]) and content["steps_per_epoch"] >= 1, "steps_per_epoch")
    loaders = content["loaders"]
    want(isinstance(loaders, list) and all(isinstance(place, dict) for place in loaders), "the loaders' places")
    scaler = content["scaler"]
    want(isinstance(scaler, dict) and all(is_finite_number(value) for value in scaler.values()), "scaler")
    want(not scaler or scaler.keys() == {"scale", "good_steps"}, "scaler")
    for key in ("error", "best_error"):
        want(content[key] is None or (is_finite_number(content[key]) and 0 <= content[key] <= 1), key)
    check_totals(content["totals"])
    check_image(content["image_options"])
    check_mean(content["mean"], content["image_options"]["size"])


def check_class_list(classes: Any) -> None:
    """Pairs (name, label), at least two."""
    want(isinstance(classes, list) and len(classes) >= 2, "the list of classes")
    for entry in classes:
        pair = isinstance(entry, list | tuple) and len(entry) == 2
        want(pair and all(isinstance(text, str) for text in entry), "the list of classes")


def check_totals(totals: Any) -> None:
    """Costs are numbers of 0 or more; the energy may be unknown."""
    want(isinstance(totals, dict) and isinstance(totals.get("started"), str), "totals")
    for key, value in totals.items():
        known = key == "started" or (key == "energy_kwh" and value is None)
        want(known or (is_finite_number(value) and value >= 0), f"totals, {key}")


def check_image(image: Any) -> None:
    """How images were made ready."""
    want(isinstance(image, dict), "image options")
    want(is_count(image["size"]) and image["size"] >= CROP, "image size")
    want(is_count(image["quality"]), "image quality")
    want(isinstance(image["filter"], str) and image["filter"] in FILTERS, "image filter")
    want(image["exif"] in ("apply", "ignore"), "image exif")
    want(image.get("damaged", "skip") in ("skip", "keep"), "damaged images")


def check_mean(mean: Any, size: int) -> None:
    """A mean image as large as the images where the kind says so, and a mean color always."""
    want(isinstance(mean, dict) and mean["kind"] in ("image", "rgb"), "mean")
    want(is_finite_tensor(mean["rgb"], (3,)), "the mean color")
    if mean["kind"] == "image":
        want(is_finite_tensor(mean["image"], (size, size, 3)), "the mean image")
    else:
        want(mean["image"] is None, "the mean image")


def check_tensors(tensors: Any, architecture: Architecture, what: str) -> None:
    """One whole tensor of the right shape for each parameter of the network; ValueError that names the first wrong."""
    want(isinstance(tensors, dict), what)
    shapes = {f"{layer}.weight": shape for layer, shape in architecture.weight_shapes.items()}
    shapes |= {f"{layer}.bias": shape[:1] for layer, shape in architecture.weight_shapes.items()}
    for name in tensors:
        if name not in shapes:
            raise ValueError(f"{what} have {name}, which the network does not know")
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"{name} is missing in {what}")
        want(is_finite_tensor(tensors[name], shape), f"{name} in {what}")


def want(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"{what} is not what it must be")


def is_finite_number(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def is_finite_tensor(value: object, shape: tuple[int, ...]) -> bool:
    """Whether it is a plain float32 tensor of that shape without NaN or infinity."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or value.layout != torch.strided:
        return False
    return tuple(value.shape) == shape and bool(value.isfinite().all())
