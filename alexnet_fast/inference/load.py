"""A trained network, ready to be asked: out of a checkpoint, a run's folder, or exported .safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.inference.evaluation import Predictor
from alexnet_fast.network.model import AlexNet, load_whole_state
from alexnet_fast.runs.checkpoint import (
    FORMAT,
    WANTED,
    Checkpoint,
    Mean,
    checkpoint_from,
    load_checkpoint,
    resolve_checkpoint,
)
from alexnet_fast.tools.crop import center_crop
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import check_regular


@dataclass(frozen=True)
class Trained:
    """A network and what it was trained on."""

    file: Path
    checkpoint: Checkpoint
    predictor: Predictor

    @property
    def labels(self) -> list[str]:
        """Of the classes, for people."""
        return [label for _, label in self.checkpoint.classes]


def load_trained(path: Path, device: torch.device, precision: Precision) -> Trained:
    """From a .pt checkpoint, a run's folder (its newest), or a .safetensors file of `export`."""
    return trained_from(*read_checkpoint(path), device, precision)


def trained_from(file: Path, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> Trained:
    """The network of a checkpoint that was read from `file`, which may be gone by now."""
    model = AlexNet(checkpoint.architecture(), seed=None).eval()
    load_whole_state(model, checkpoint.model)
    model.to(device)
    return Trained(file, checkpoint, Predictor(model, model.working_weights(precision.dtype)))


def read_checkpoint(path: Path) -> tuple[Path, Checkpoint]:
    """The file that `path` means, a run's folder being its newest checkpoint, and what is in it."""
    while True:
        file = resolve_checkpoint(path)
        try:
            return file, load_safetensors(file) if file.suffix == ".safetensors" else load_checkpoint(file)
        except UsageError:
            if file == path or file.exists():
                raise
            # The run trains on, and has removed it for a newer one.


def load_safetensors(file: Path) -> Checkpoint:
    """What `export` wrote as .safetensors, as a checkpoint without momentum."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(file)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such file; give {WANTED}") from error
    except (SafetensorError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{file} is no .safetensors file, or it was cut short or altered ({reason}). Export it again."
        ) from error
    if "alexnet_fast" not in metadata:
        raise UserError(
            f"{file} was not written by `alexnet-fast export`: nothing says what its network is. Give {WANTED}."
        )
    try:
        facts = json.loads(metadata["alexnet_fast"])
        content = {
            **facts,
            "format": FORMAT,
            "mean": {
                "kind": facts["mean"],
                "image": tensors.pop("mean.image", None),
                "rgb": tensors.pop("mean.rgb"),
            },
            "model": tensors,
            "optimizer": None,
            "loaders": [],
            "scaler": {},
            "error": None,
            "best_error": None,
            "totals": {"started": facts["started"]},
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: a part of its metadata is missing or of another kind ({error}). Export it again."
        ) from error
    return checkpoint_from(content, file)


def mean_to_subtract(mean: Mean) -> torch.Tensor:
    """(224, 224, 3): the mean image's center; or (3,): the mean color."""
    if mean.image is None:
        return mean.rgb
    return torch.from_numpy(center_crop(mean.image.numpy()))
