"""How many pictures a training step has room for."""

from __future__ import annotations

import torch

from alexnet_fast.dropout import DropoutKey
from alexnet_fast.exchange import LocalExchange, Wait
from alexnet_fast.model import AlexNet, Architecture

PICTURES = 2
TEMPORARIES = 1.5
"""Memory of a step over what it keeps for the way back: gradients on their way, and what libraries need to work."""


class NobodyExchange:
    """One tower whose peer's maps have a shape and no numbers."""

    def __init__(self, towers: tuple[int, ...]) -> None:
        self.towers = towers

    def start(self, own: torch.Tensor, peer_shape: torch.Size) -> Wait:
        return lambda: own.new_empty(peer_shape)


def kept_bytes(architecture: Architecture, dtype: torch.dtype, towers: tuple[int, ...]) -> float:
    """Bytes that a process with these towers keeps of each picture for the way back; nothing is computed."""
    blocks: dict[int, int] = {}
    whole = LocalExchange(architecture.num_towers)
    with torch.device("meta"):
        exchange = whole if towers == whole.towers else NobodyExchange(towers)
        model = AlexNet(architecture, exchange=exchange).to(dtype)
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


def largest_batch(architecture: Architecture, dtype: torch.dtype, available: int, towers: tuple[int, ...]) -> int:
    """Pictures of a step that `available` bytes hold, weights and momentum not counted; a multiple of 16, or fewer."""
    pictures = int(available / (TEMPORARIES * kept_bytes(architecture, dtype, towers)))
    return pictures - pictures % 16 if pictures >= 16 else max(0, pictures)
