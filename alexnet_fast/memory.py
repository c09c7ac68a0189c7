"""How many pictures a training step has room for."""

from __future__ import annotations

import torch

from alexnet_fast.dropout import DropoutKey
from alexnet_fast.model import AlexNet, Architecture

PICTURES = 2
TEMPORARIES = 1.5
"""Memory of a step over what it keeps for the way back: gradients on their way, and what libraries need to work."""


def kept_bytes(architecture: Architecture, dtype: torch.dtype) -> float:
    """Bytes that the forward pass keeps for the way back, for each picture; counted without computing anything."""
    blocks: dict[int, int] = {}
    with torch.device("meta"):
        model = AlexNet(architecture).to(dtype)
        images = torch.empty(PICTURES, 3, architecture.image_size, architecture.image_size, dtype=dtype)
        key = torch.empty((), dtype=torch.int64)
    kept: list[torch.Tensor] = []  # alive, so that no two have the same identity

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images, DropoutKey(key))
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    for tensor in kept:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            blocks[storage._cdata] = storage.nbytes()
    return sum(blocks.values()) / PICTURES


def largest_batch(architecture: Architecture, dtype: torch.dtype, available: int) -> int:
    """Pictures of a step that `available` bytes hold, weights and momentum not counted; a multiple of 16, or fewer."""
    pictures = int(available / (TEMPORARIES * kept_bytes(architecture, dtype)))
    return pictures - pictures % 16 if pictures >= 16 else max(0, pictures)
