"""A network for other programs: .safetensors with everything to use it, or .onnx that any runtime computes.

.safetensors: tensors conv1.weight (96, 3, 11, 11), conv1.bias, … fc8.bias as in `model`, mean.rgb, mean.image; metadata
"format": "pt", "network": how to compute it from them, and "alexnet_fast": JSON with recipe, classes and
step.  `eval`, `predict` and `export` read it back.

.onnx: input "images" (N, 3, 224, 224) float32, RGB 0..255; the graph subtracts the mean; output "logits" (N, classes).
Its metadata has classes, network and version; beside it a .json with sizes and classes.

Beside both a model card, a .md of the same name.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_fast.inference.load import mean_to_subtract
from alexnet_fast.inference.model_card import MARK, computation, model_card, title
from alexnet_fast.inference.onnx_graph import OnnxGraph
from alexnet_fast.runs.checkpoint import Checkpoint
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UsageError, UserError

KINDS = (".safetensors", ".onnx")
TOLERANCE = 1e-4
"""Largest difference of onnxruntime's logits from float32 torch's, relative to the largest logit, on one CPU."""


def export(checkpoint: Checkpoint, file: Path) -> list[Path]:
    """Write the network by the file's suffix; the files written.  Raises UsageError for another suffix."""
    if file.suffix not in KINDS:
        raise UsageError(f"--out {file}: the name must end in {' or '.join(KINDS)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--out {file}: there is no folder {file.absolute().parent}; make it first.")
    card = file.with_suffix(".md")
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(
            f"{card} is there and was not written by an export: it would be replaced. Choose another --out."
        )
    write = export_safetensors if file.suffix == ".safetensors" else export_onnx
    try:
        written = write(checkpoint, file)
        atomic.write_text(card, model_card(checkpoint, file.name))
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}). Choose another --out.") from error
    return [*written, card]


def export_safetensors(checkpoint: Checkpoint, file: Path) -> list[Path]:
    """Everything in one file."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.items()}
    tensors["mean.rgb"] = checkpoint.mean.rgb
    if checkpoint.mean.image is not None:
        tensors["mean.image"] = checkpoint.mean.image
    facts = {
        "recipe": asdict(checkpoint.recipe),
        "classes": checkpoint.classes,
        "dataset_fingerprint": checkpoint.dataset_fingerprint,
        "image_options": asdict(checkpoint.image_options),
        "mean": checkpoint.mean.kind,
        "started": checkpoint.totals.started,
        "step": checkpoint.step,
        "steps_per_epoch": checkpoint.steps_per_epoch,
    }
    metadata = {
        "format": "pt",
        "network": json.dumps(computation(checkpoint.architecture())),
        "alexnet_fast": json.dumps(facts),
    }
    # Bytes first: the package's own writer reports a full disk as an error of its own kind, and flushes nothing.
    atomic.write_bytes(file, save(tensors, metadata))
    return [file]


def export_onnx(checkpoint: Checkpoint, file: Path) -> list[Path]:
    """The graph, and beside it the preprocessing."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError("writing .onnx needs the package onnx: pip install 'alexnet-fast[onnx]'") from error
    beside = file.with_suffix(".json")
    if beside.exists() and not is_preprocessing(beside):
        raise UsageError(
            f"{beside} is there and was not written by an export: it would be replaced. Choose another --out."
        )
    facts = {
        "classes": json.dumps([label for _, label in checkpoint.classes]),
        "class_names": json.dumps([name for name, _ in checkpoint.classes]),
        "mean": f"subtracted in the graph: {checkpoint.mean.kind}",
        "net": checkpoint.recipe.name,
        "step": str(checkpoint.step),
        "preprocessing": json.dumps(
            {key: value for key, value in preprocessing(checkpoint).items() if key != "classes"}
        ),
    }
    graph = OnnxGraph(checkpoint.architecture(), checkpoint.model, mean_to_subtract(checkpoint.mean))
    model = graph.build(facts, f"AlexNet, {title(checkpoint)}. Input: RGB 0..255, NCHW. Output: logits.")
    onnx.checker.check_model(model)
    atomic.write_bytes(file, model.SerializeToString())
    atomic.write_text(beside, json.dumps(preprocessing(checkpoint)) + "\n")
    return [file, beside]


def is_preprocessing(file: Path) -> bool:
    """Whether a file is what `preprocessing` says of some network: it may be written anew."""
    if not file.is_file():
        return False
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and {"layout", "classes"} <= content.keys()


def preprocessing(checkpoint: Checkpoint) -> dict[str, Any]:
    """What to do to an image before the network, and what the outputs are."""
    size = checkpoint.image_options.size
    down = checkpoint.image_options.filter
    if down == "area":
        down = "averaging over the area that each source pixel covers (alexnet_fast.tools.sharding.resize)"
    return {
        "orientation": f"EXIF: {checkpoint.image_options.exif}",
        "pixels": "alexnet_fast.inference.pixels.network_pixels computes them: resized, cut, and encoded as JPEG of "
        f"quality {checkpoint.image_options.quality} with 4:2:0 sampling, as all training images were, and decoded",
        "resize": f"short side {size} ({down} down, cubic up), center {size}x{size}",
        "crop": "center 224x224; the ten-view test averages the softmax of corners, center and their mirrors",
        "channels": "RGB",
        "layout": "NCHW",
        "values": "0..255; the graph subtracts the mean",
        "classes": [{"name": name, "label": label} for name, label in checkpoint.classes],
    }
