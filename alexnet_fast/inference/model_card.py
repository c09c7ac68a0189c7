"""What a reader of exported weights must know: how the network computes, and a model card for the file."""

from __future__ import annotations

import json
from typing import Any

from alexnet_fast.network.layers import CONV1_KERNEL, CONV1_STRIDE, conv1_size
from alexnet_fast.network.model import Architecture
from alexnet_fast.runs.checkpoint import Checkpoint
from alexnet_fast.tools.version import __version__

MARK = "<!-- written by alexnet-fast export -->"
"""By which a card is known that may be written anew."""


def computation(a: Architecture) -> dict[str, Any]:
    """Everything between pixels and logits that the weights' shapes do not say."""
    beyond = CONV1_STRIDE * (conv1_size(a.image_size) - 1) + CONV1_KERNEL - a.image_size
    conv1 = ["activation", "norm", "pool"] if a.relu_first else ["norm", "pool", "activation"]
    towers, joined = a.num_towers, 1 if a.exchanged else a.num_towers
    return {
        "input": f"RGB, NCHW, {a.image_size}x{a.image_size}, 0..255 less mean.image's center or mean.rgb, not divided",
        "conv1": {"stride": CONV1_STRIDE, "padding_left_right_top_bottom": [0, beyond, 0, beyond], "then": conv1},
        "conv2": {"padding": a.conv2_padding, "groups": towers, "then": ["activation", "norm", "spatial norm", "pool"]},
        "conv3": {"padding": 1, "groups": joined, "then": ["activation"]},
        "conv4": {"padding": 1, "groups": towers, "then": ["activation"]},
        "conv5": {"padding": a.conv5_padding, "groups": towers, "then": ["activation", "pool"]},
        "fc6": f"sees all {a.last_map_size}x{a.last_map_size}, {joined} group(s); activation; times {a.test_scale:g}",
        "fc7": f"{joined} group(s); activation; times {a.test_scale:g}",
        "fc8": "logits",
        "activation": a.activation,
        "pool": {"max": a.pool_size, "stride": 2, "ceil_mode": True},
        "norm": {
            "layers": [norm for norm in a.norms if norm != "conv2-spatial"],
            "formula": "x / (k + alpha / size * sum of x² over size maps of the same tower) ** beta",
            "size": 5, "alpha": a.norm_alpha, "beta": 0.75, "k": 2, "towers": towers,
        },
        "spatial norm": "x / (1 + 1e-3 * mean of x² over 5x5 pixels, zeros outside counted) ** 0.75"
        if "conv2-spatial" in a.norms
        else None,
    }  # fmt: skip


def title(checkpoint: Checkpoint) -> str:
    """Which network it is, in half a line."""
    return f"recipe {checkpoint.recipe.name}, {len(checkpoint.classes):,} classes, step {checkpoint.step:,}"


def model_card(checkpoint: Checkpoint, file: str) -> str:
    """Markdown with the front matter that model hubs read."""
    options = checkpoint.image_options
    result = "not evaluated" if checkpoint.error is None else f"top-1 error {checkpoint.error:.2%}, center view"
    if file.endswith(".onnx"):
        use = f"""import onnxruntime
session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"images": images}})  # (N, 3, 224, 224) float32, RGB 0..255"""
    else:
        use = f"""from alexnet_fast import PlainAlexNet
network = PlainAlexNet.from_checkpoint("{file}")  # an ordinary torch.nn.Module
logits = network(images - mean)  # (N, 3, 224, 224) float32, RGB 0..255 less mean.image's center or mean.rgb"""
    classes = "\n".join(
        f"{number}. {json.dumps(label, ensure_ascii=False)}"
        for number, (_, label) in enumerate(checkpoint.classes[:10])
    )
    subtracted = "subtracted in the graph" if file.endswith(".onnx") else "subtracted"
    more = f"\n\n… and {len(checkpoint.classes) - 10:,} more, all in the file." if len(checkpoint.classes) > 10 else ""
    return f"""---
library_name: {"onnx" if file.endswith(".onnx") else "pytorch"}
pipeline_tag: image-classification
tags: [alexnet]
---
{MARK}

# AlexNet, {title(checkpoint)}

Trained with alexnet-fast {__version__}; data set {checkpoint.dataset_fingerprint[:16]}; {result}.

```python
{use}
```

- Images: short side {options.size}, center {options.size}×{options.size}, filter {options.filter}, then center 224×224.
- Values: RGB, 0..255, mean ({checkpoint.mean.kind}) {subtracted}, not divided.
- Known limits: as any network trained on photos of such classes, it repeats their biases; it is no judge of people.

Classes, from 0:

{classes}{more}
"""
