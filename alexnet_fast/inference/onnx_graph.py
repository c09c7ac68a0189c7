"""The network as an ONNX graph, built by hand.

`torch.onnx.export` of `PlainAlexNet` was tried with torch 2.13 and computes the same logits, but loads less widely.
Its default exporter writes opset 18 and IR version 10 at the lowest (conversion to opset 17 fails), where this graph
needs opset 17 and IR version 8; it expands each local response normalization into nine nodes (net 145: 68 nodes in all,
here 37), where ONNX has an operator, LRN; and it needs the packages onnxscript, onnx-ir and ml-dtypes; this module
needs onnx alone.  The TorchScript exporter, which is deprecated, writes 336 nodes.  Figures: benchmarks/LOG.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alexnet_fast.network.kernels.pooling import POOL_STRIDE
from alexnet_fast.network.layers import CONV1_KERNEL, CONV1_STRIDE, conv1_size
from alexnet_fast.network.model import Architecture
from alexnet_fast.tools.version import __version__

OPSET = 17
"""ONNX operators; runtimes of 2022 and later know them."""


class OnnxGraph:
    """The network's graph, operator by operator; both towers as groups."""

    def __init__(self, architecture: Architecture, tensors: dict[str, torch.Tensor], mean: torch.Tensor) -> None:
        """tensors: the whole weights; mean: (224, 224, 3) or (3,), subtracted from the images."""
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
        self.constants["mean"] = (
            mean.reshape(1, *([1, 1, 3] if mean.dim() == 1 else mean.shape)).permute(0, 3, 1, 2).numpy()
        )

    def build(self, facts: dict[str, str], description: str) -> Any:
        """The whole model; see `model.AlexNet.forward`, which it follows line by line.

        facts, description: its metadata_props and doc_string.
        """
        from onnx import TensorProto, numpy_helper

        a = self.a
        beyond = CONV1_STRIDE * (conv1_size(a.image_size) - 1) + CONV1_KERNEL - a.image_size
        x = self.node("Sub", "images", "mean")
        x = self.node("Conv", x, "conv1.weight", "conv1.bias", strides=[CONV1_STRIDE] * 2, pads=[0, 0, beyond, beyond])
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
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=8,
            producer_name="alexnet-fast",
            producer_version=__version__,
            doc_string=description,
        )
        helper.set_model_props(model, facts)
        return model

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
