"""A network for other programs: .safetensors with everything to use it, or .onnx that any runtime computes.

.safetensors: tensors conv1.weight (96, 3, 11, 11), conv1.bias, … fc8.bias as in `model`, mean.rgb, mean.image; metadata
key "alexnet_fast": JSON with recipe, classes and step.  `eval`, `predict` and `export` read it back.

.onnx: input "images" (N, 3, 224, 224) float32, RGB 0..255 less the mean; output "logits" (N, classes).  Beside it a
.json with the mean, the sizes and the classes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_fast.inference.load import mean_to_subtract
from alexnet_fast.network.kernels.pooling import POOL_STRIDE
from alexnet_fast.network.layers import CONV1_KERNEL, CONV1_STRIDE, conv1_size
from alexnet_fast.network.model import Architecture
from alexnet_fast.runs.checkpoint import Checkpoint
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UsageError, UserError

KINDS = (".safetensors", ".onnx")
OPSET = 17
"""ONNX operators; runtimes of 2022 and later know them."""
TOLERANCE = 1e-4
"""Largest difference of onnxruntime's logits from float32 torch's, relative to the largest logit, on one CPU."""


def export(checkpoint: Checkpoint, file: Path) -> list[Path]:
    """Write the network by the file's suffix; the files written.  Raises UsageError for another suffix."""
    if file.suffix not in KINDS:
        raise UsageError(f"--out {file}: the name must end in {' or '.join(KINDS)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--out {file}: there is no folder {file.absolute().parent}; make it first.")
    try:
        return export_safetensors(checkpoint, file) if file.suffix == ".safetensors" else export_onnx(checkpoint, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}). Choose another --out.") from error


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
    # Bytes first: the package's own writer reports a full disk as an error of its own kind, and flushes nothing.
    atomic.write_bytes(file, save(tensors, {"alexnet_fast": json.dumps(facts)}))
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
    model = OnnxGraph(checkpoint.architecture(), checkpoint.model).build()
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
    return isinstance(content, dict) and {"mean_rgb", "layout", "classes"} <= content.keys()


def preprocessing(checkpoint: Checkpoint) -> dict[str, Any]:
    """What to do to a image before the network, and what the outputs are."""
    mean = mean_to_subtract(checkpoint.mean)
    size = checkpoint.image_options.size
    down = "area averaging" if checkpoint.image_options.filter == "area" else checkpoint.image_options.filter
    return {
        "orientation": f"EXIF: {checkpoint.image_options.exif}",
        "resize": f"short side {size} ({down} down, cubic up), center {size}x{size}",
        "crop": "center 224x224; the ten-view test averages the softmax of corners, center and their mirrors",
        "channels": "RGB",
        "layout": "NCHW",
        "values": "0..255, less the mean, not divided",
        "mean_rgb": checkpoint.mean.rgb.tolist(),
        "mean_image_HWC": mean.round(decimals=3).tolist() if checkpoint.mean.image is not None else None,
        "classes": [{"name": name, "label": label} for name, label in checkpoint.classes],
    }


class OnnxGraph:
    """The network's graph, operator by operator; both towers as groups."""

    def __init__(self, architecture: Architecture, tensors: dict[str, torch.Tensor]) -> None:
        from onnx import helper

        self.helper = helper
        self.a = architecture
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {
            name: tensor.numpy() for name, tensor in tensors.items() if name.endswith("bias") or "conv" in name
        }
        for layer in ("fc6", "fc7", "fc8"):
            weight = tensors[f"{layer}.weight"]
            self.constants[f"{layer}.weight"] = weight.reshape(weight.shape[0], -1).numpy()

    def build(self) -> Any:
        """The whole model; see `model.AlexNet.forward`, which it follows line by line."""
        from onnx import TensorProto, numpy_helper

        a = self.a
        beyond = CONV1_STRIDE * (conv1_size(a.image_size) - 1) + CONV1_KERNEL - a.image_size
        x = self.node(
            "Conv", "images", "conv1.weight", "conv1.bias", strides=[CONV1_STRIDE] * 2, pads=[0, 0, beyond, beyond]
        )
        if a.relu_first:
            x = self.pool(self.norm("conv1", self.activate(x)))
        else:
            x = self.activate(self.pool(self.norm("conv1", x)))
        x = self.activate(self.convolve("conv2", x, a.conv2_padding))
        x = self.norm("conv2", x)
        x = self.pool(self.spatial_norm(x) if "conv2-spatial" in a.norms else x)
        x = self.activate(self.convolve("conv3", x, 1, meets=a.exchanged))
        x = self.activate(self.convolve("conv4", x, 1))
        x = self.pool(self.activate(self.convolve("conv5", x, a.conv5_padding)))
        for layer in ("fc6", "fc7"):
            x = self.activate(self.connect(layer, x))
            x = self.node("Mul", x, self.constant(f"{layer}.kept", np.float32(a.test_scale)))
        x = self.node("Gemm", x, "fc8.weight", "fc8.bias", output="logits", transB=1)
        helper = self.helper
        graph = helper.make_graph(
            self.nodes,
            "alexnet",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, a.image_size, a.image_size])],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", a.num_classes])],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in self.constants.items()],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="alexnet-fast"
        )

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        name = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def activate(self, x: str) -> str:
        return self.node("Relu" if self.a.activation == "relu" else "Tanh", x)

    def pool(self, x: str) -> str:
        size, stride = [self.a.pool_size] * 2, [POOL_STRIDE] * 2
        return self.node("MaxPool", x, kernel_shape=size, strides=stride, ceil_mode=1)

    def convolve(self, layer: str, x: str, padding: int, *, meets: bool = False) -> str:
        groups = 1 if meets else self.a.num_towers
        return self.node("Conv", x, f"{layer}.weight", f"{layer}.bias", pads=[padding] * 4, group=groups)

    def norm(self, layer: str, x: str) -> str:
        """Across the maps of each tower; ONNX divides alpha by the window as the 2012 program does."""
        if layer not in self.a.norms:
            return x
        towers = self.a.num_towers
        parts = [f"{layer}.tower{tower}" for tower in range(towers)]
        self.nodes.append(self.helper.make_node("Split", [x], parts, axis=1))
        settings: dict[str, Any] = {"size": 5, "alpha": self.a.norm_alpha, "beta": 0.75, "bias": 2.0}
        return self.node("Concat", *(self.node("LRN", part, **settings) for part in parts), axis=1)

    def spatial_norm(self, x: str) -> str:
        """Over 5×5 pixels of the same map, zeros outside counted."""
        square = self.node("Mul", x, x)
        mean = self.node("AveragePool", square, kernel_shape=[5, 5], pads=[2] * 4, count_include_pad=1)
        scaled = self.node("Mul", mean, self.constant("spatial.alpha", np.float32(1e-3)))
        base = self.node("Add", scaled, self.constant("spatial.k", np.float32(1)))
        return self.node("Div", x, self.node("Pow", base, self.constant("spatial.beta", np.float32(0.75))))

    def connect(self, layer: str, x: str) -> str:
        """fc6 or fc7; towers that never exchange have one product each."""
        flat = self.node("Flatten", x)
        if self.a.exchanged or self.a.num_towers == 1:
            return self.node("Gemm", flat, f"{layer}.weight", f"{layer}.bias", transB=1)
        outputs = []
        for kind in ("weight", "bias"):
            whole = self.constants.pop(f"{layer}.{kind}")
            for tower, part in enumerate(np.split(whole, 2)):
                self.constant(f"{layer}.{kind}.tower{tower}", part)
        self.nodes.append(self.helper.make_node("Split", [flat], [f"{layer}.seen0", f"{layer}.seen1"], axis=1))
        for tower in range(2):
            names = (f"{layer}.weight.tower{tower}", f"{layer}.bias.tower{tower}")
            outputs.append(self.node("Gemm", f"{layer}.seen{tower}", *names, transB=1))
        return self.node("Concat", *outputs, axis=1)
