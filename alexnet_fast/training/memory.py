"""How much memory training takes, and how many images a training step fits."""

from __future__ import annotations

import torch

from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.exchange import LocalExchange, Wait
from alexnet_fast.network.model import AlexNet, Architecture

IMAGES = 2
TEMPORARIES = 2.5
"""Memory of a step over what it saves for the backward pass: intermediate maps and gradients, and batches in use.

The networks of `model.NETS` have 1.3 to 2.4 times as much alive at once; libraries need some to work.
"""


class NobodyExchange:
    """One tower whose peer's maps are meta tensors."""

    def __init__(self, towers: tuple[int, ...]) -> None:
        self.towers = towers

    def start(self, own: torch.Tensor, peer_shape: torch.Size) -> Wait:
        return lambda: own.new_empty(peer_shape)


def model_without_numbers(architecture: Architecture, towers: tuple[int, ...]) -> AlexNet:
    """What a process with these towers holds, on the meta device."""
    whole = LocalExchange(architecture.num_towers)
    with torch.device("meta"):
        return AlexNet(architecture, exchange=whole if towers == whole.towers else NobodyExchange(towers))


def kept_bytes(architecture: Architecture, dtype: torch.dtype, towers: tuple[int, ...]) -> float:
    """Bytes that a process with these towers saves of each image for the backward pass; nothing is computed."""
    blocks: dict[int, int] = {}
    model = model_without_numbers(architecture, towers).to(dtype)
    with torch.device("meta"):
        images = torch.empty(IMAGES, 3, architecture.image_size, architecture.image_size, dtype=dtype)
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
    return sum(blocks.values()) / IMAGES


def lasting_bytes(num_parameters: int, dtype: torch.dtype) -> int:
    """Weights and momentum in float32, working copies and gradients in `dtype`."""
    return num_parameters * (2 * torch.float32.itemsize + 2 * dtype.itemsize)


def training_bytes(
    architecture: Architecture, dtype: torch.dtype, towers: tuple[int, ...], *, images: int, evaluated: int
) -> int:
    """Bytes that a process with these towers takes on its device, the loader's not counted.

    images: of a step.  evaluated: images at once of an evaluation, which comes between steps; a step that was captured
    as a CUDA graph keeps its memory meanwhile.
    """
    parameters = model_without_numbers(architecture, towers).parameters()
    kept = kept_bytes(architecture, dtype, towers)
    lasting = lasting_bytes(sum(parameter.numel() for parameter in parameters), dtype)
    return lasting + int(kept * (TEMPORARIES * images + evaluated))


def largest_batch(
    architecture: Architecture, dtype: torch.dtype, available: int, towers: tuple[int, ...], loading: float = 0.0
) -> int:
    """Images of a step that `available` bytes hold, weights and momentum not counted; a multiple of 16, or fewer.

    loading: bytes that the loader takes for each of them.
    """
    images = int(available / (TEMPORARIES * kept_bytes(architecture, dtype, towers) + loading))
    return images - images % 16 if images >= 16 else max(0, images)
