"""Weights to start a run with: a trained network of this program, or Caffe's published AlexNet.

Caffe's layout, as .npz or .safetensors with these names: conv1.weight (96, 3, 11, 11), conv2.weight (256, 48, 5, 5),
conv3.weight (384, 256, 3, 3), conv4.weight (384, 192, 3, 3), conv5.weight (256, 192, 3, 3), fc6.weight (4096, 9216),
fc7.weight (4096, 4096), fc8.weight (classes, 4096), and a .bias for each.  Caffe's own kinds of names (conv1_w,
conv1.0 and the like) are to be renamed first.  What differs there and how it is handled is in `from_caffe`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_fast.config.recipe_keys import RecipeKeys
from alexnet_fast.inference.load import load_safetensors
from alexnet_fast.network.model import LAYERS, NETS, Architecture
from alexnet_fast.runs.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from alexnet_fast.runs.resume import DEFINES_NETWORK
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import check_regular

CAFFE_NETWORK = "caffe"
NORM_FACTOR = 2.0**0.75
"""What our norms divide by more than Caffe's, whose constant k is 1 and ours 2."""
MAY_DIFFER = ("num_classes", "middle_sigma", "dropout", "dropout_inverted", "all_ties")
"""Of an architecture: what changes the training only, or is noted."""


@dataclass(frozen=True)
class Pretrained:
    """Weights for a network, and notes for the user of them."""

    tensors: dict[str, torch.Tensor]
    """Parameter name -> whole float32 tensor; fc8 is missing where it is to start anew."""
    notes: list[str]


def load_pretrained(
    path: Path, architecture: Architecture, network: str, classes: tuple[tuple[str, str], ...]
) -> Pretrained:
    """Weights for a network of `architecture`, net `network` of a recipe, that is to tell `classes` apart.

    fc8 is taken over where the classes are the same in the same order, else it is missing.  Raises UsageError where the
    weights are of another network, UserError where the file is damaged.
    """
    file = resolve_checkpoint(path)
    if (caffe := read_caffe(file)) is not None:
        if network != CAFFE_NETWORK:
            raise UsageError(
                f"{file} holds weights in Caffe's layout, which are of another network than {network}: "
                f"give --recipe caffe, or --set network={CAFFE_NETWORK}"
            )
        tensors = from_caffe(caffe, file, architecture.test_scale)
        kept = False  # the file does not name its classes
        notes = [
            f"Starting from {file} in Caffe's layout. Its norms crossed the middle of the maps, ours end at each "
            "tower: the two maps on either side of it differ a little."
        ]
    else:
        checkpoint = load_safetensors(file) if file.suffix == ".safetensors" else load_checkpoint(file)
        check_same_function(checkpoint, architecture, file)
        tensors = dict(checkpoint.model)
        kept = tuple(name for name, _ in checkpoint.classes) == tuple(name for name, _ in classes)
        notes = [f"Starting from {file}."]
        theirs, ours = checkpoint.architecture().test_scale, architecture.test_scale
        if theirs != ours:
            notes.append(
                f"It was trained with another dropout: testing multiplies the outputs of fc6 and fc7 by {ours:g} now, "
                f"and by {theirs:g} then, so that its later layers see other sizes than they learned from."
            )
    if not kept:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc8.")}
        notes.append(f"fc8 starts from random weights, for {len(classes):,} classes.")
    check_shapes(tensors, architecture, file)
    return Pretrained(tensors, notes)


def check_same_function(checkpoint: Checkpoint, architecture: Architecture, file: Path) -> None:
    """UsageError where the weights fit, but what is computed with them is another function than they were trained for.

    Norms, pooling and activation have no weights: nothing in the tensors says that they changed.
    """
    free = {key: getattr(architecture, key) for key in MAY_DIFFER}
    theirs, ours = asdict(replace(checkpoint.architecture(), **free)), asdict(architecture)
    differences = [key for key, value in theirs.items() if value != ours[key]]
    if not differences:
        return
    default = RecipeKeys()
    settings = {key: getattr(checkpoint.recipe, key) for key in DEFINES_NETWORK}
    own = [
        f"--set {key}={value}" for key, value in settings.items() if key == "network" or value != getattr(default, key)
    ]
    said = ", ".join(f"{key} {theirs[key]!r}, here {ours[key]!r}" for key in differences)
    raise UsageError(f"{file} was trained as another network ({said}). Give what it was trained with: {' '.join(own)}")


def check_shapes(tensors: Mapping[str, torch.Tensor], architecture: Architecture, file: Path) -> None:
    """UsageError that names the first tensor of another size."""
    for layer, shape in architecture.weight_shapes.items():
        found = tensors.get(f"{layer}.weight")
        if found is not None and tuple(found.shape) != shape:
            raise UsageError(
                f"{file}: {layer}.weight is {tuple(found.shape)} there and {shape} in this network. Give the recipe "
                "(--recipe, --set network=…) that the weights were trained with."
            )


def read_caffe(file: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """The arrays of a file in Caffe's layout; None where it is a checkpoint or an export of this program.

    Raises UserError where it cannot be read.
    """
    if file.suffix == ".npz":
        try:
            check_regular(file)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError as error:
            raise UsageError(f"{file}: there is no such file") from error
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{file} is no .npz file, or it was cut short or altered ({error}).") from error
    if file.suffix == ".safetensors" and file.exists():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                if "alexnet_fast" in (opened.metadata() or {}):
                    return None
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
                return {name: in_numpy(tensor) for name, tensor in tensors.items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is no .safetensors file, or it was cut short or altered ({error}).") from error
    return None


def in_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The same numbers; bfloat16 and the kinds of 8 bits, which numpy does not know, as float32."""
    known = not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64)
    array: np.ndarray[Any, Any] = (tensor if known else tensor.float()).numpy()
    return array


def from_caffe(arrays: Mapping[str, np.ndarray[Any, Any]], file: Path, test_scale: float) -> dict[str, torch.Tensor]:
    """Caffe's AlexNet as weights of net "caffe", whose fc6 and fc7 are multiplied by `test_scale` at test time.

    Exactly handled: its colors are B, G, R (conv1's input maps are turned around); its norms have k = 1 and α = 1e-4
    (net "caffe" has α = 2e-4, and conv2 and conv3 are multiplied by 2^0.75, which makes k = 2 the same); its dropout
    keeps the scale at test time (fc7 and fc8 are divided by `test_scale`); fc6 sees (C, H, W) flattened.  Its
    227 px input is our 224 with three more columns and rows, which are the mean color here.  Not the same: its norms
    reach over the border between the two halves of the maps.
    """
    shapes = NETS[CAFFE_NETWORK].weight_shapes
    tensors: dict[str, torch.Tensor] = {}
    for layer in LAYERS:
        units, *seen = shapes[layer]
        flat = seen if layer != "fc6" else [int(np.prod(seen))]  # (C, H, W) flattened there
        weight = caffe_tensor(arrays, f"{layer}.weight", (None if layer == "fc8" else units, *flat), file)
        tensors[f"{layer}.weight"] = weight.reshape(-1, *seen)
        tensors[f"{layer}.bias"] = caffe_tensor(arrays, f"{layer}.bias", (len(weight),), file)
    tensors["conv1.weight"] = tensors["conv1.weight"].flip(1)
    for layer in ("conv2", "conv3"):
        tensors[f"{layer}.weight"] *= NORM_FACTOR
    for layer in ("fc7", "fc8"):
        tensors[f"{layer}.weight"] /= test_scale
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def caffe_tensor(
    arrays: Mapping[str, np.ndarray[Any, Any]], name: str, shape: tuple[int | None, ...], file: Path
) -> torch.Tensor:
    """One array as float32 of this shape, in which None is any size.

    Axes of one element that early Caffe put before are dropped: (1, 1, 4096, 9216), (1, 1, 1, 96).  Nothing is turned
    around: the same numbers in another order, as in TensorFlow's (H, W, in, out), would be another network.  UserError.
    """
    if name not in arrays:
        raise UserError(f"{file}: has no {name}; it must have {', '.join(LAYERS)}, each .weight and .bias.")
    value = arrays[name]
    found = value.shape
    while len(found) > len(shape) and found[0] == 1:
        found = found[1:]
    if len(found) != len(shape) or any(wanted not in (None, size) for wanted, size in zip(shape, found, strict=True)):
        wanted = ", ".join("classes" if size is None else str(size) for size in shape)
        raise UserError(
            f"{file}: {name} is {value.shape}; in Caffe's AlexNet it is ({wanted}), outputs before inputs. "
            "Transpose what another program wrote in another order."
        )
    if not np.issubdtype(value.dtype, np.floating):
        raise UserError(f"{file}: {name} holds {value.dtype}, not floating-point numbers.")
    tensor = torch.from_numpy(value.reshape(found).astype(np.float32))
    if not bool(tensor.isfinite().all()):
        raise UserError(f"{file}: {name} holds NaN or infinite values")
    return tensor
