"""A trained network in Python: names and features for images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.distributed.devices import use_device
from alexnet_fast.inference.evaluation import average_probabilities
from alexnet_fast.inference.load import Trained, load_trained, mean_to_subtract
from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.inference.predict import prepare, read
from alexnet_fast.network.model import AlexNet
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.pipelines.evaluation_loader import view_cutter
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import did_you_mean

ImageLike: TypeAlias = "Image.Image | npt.NDArray[np.uint8] | Path | str | bytes"
"""A PIL image, (H, W, 3) or (H, W) uint8 pixels, a file's path, or a file's bytes."""

Images: TypeAlias = "list[Any] | tuple[Any, ...]"

STAGES = {
    "conv1": "conv1", "pool1": "norm1+pool1", "conv2": "conv2", "pool2": "norm2+pool2", "conv3": "conv3",
    "conv4": "conv4", "pool5": "conv5", "fc6": "fc6", "fc7": "fc7", "fc8": "fc8",
}  # fmt: skip
"""Name of a feature -> the stage that the network's forward pass calls by another name."""


class Guess(NamedTuple):
    """One of a network's answers for an image."""

    label: str
    """The class for people, such as "tench"."""
    probability: float
    """0..1, averaged over the views."""
    name: str
    """The class's folder name, such as "n01440764"."""
    class_index: int
    """The class's number, 0 to classes − 1."""


def load(path: Path | str, *, device: str | None = None, precision: str = "fp32") -> TrainedNetwork:
    """The trained network of a run's folder (its newest checkpoint), a .pt checkpoint or an exported .safetensors.

    device: "cpu", "cuda" or "cuda:1"; None: the first GPU where there is one.  precision: "fp32", "bf16", "fp16" or
    "auto".  Raises UsageError where there is no checkpoint or no such device, UserError where the file is damaged.

    >>> from alexnet_fast import load
    >>> network = load("runs/2013")
    >>> network.predict("photo.jpg")[0].label in network.classes
    True
    """
    place = use_device(device)
    return TrainedNetwork(load_trained(Path(path), place, choose_precision(place, precision)), place)


class TrainedNetwork:
    """What `load` returns.  Images may have any size; they are prepared as the training images were."""

    def __init__(self, trained: Trained, device: torch.device) -> None:
        self.trained, self.device = trained, device
        self.file = trained.file
        """Where it was read from."""
        self.checkpoint = trained.checkpoint
        """Recipe, mean, weights and how far the training had come."""
        self.model: AlexNet = trained.predictor.model
        """The network itself, in eval mode: (N, 3, 224, 224) RGB 0..255 less the mean -> (N, classes) logits."""
        self.classes: tuple[str, ...] = tuple(trained.labels)
        """Labels by class index, for people; two of ImageNet's occur twice."""
        self.class_names: tuple[str, ...] = tuple(name for name, _ in trained.checkpoint.classes)
        """Folder names by class index, unique; ImageNet's WordNet ids."""
        self._mean = mean_to_subtract(trained.checkpoint.mean).to(device)
        self._dtype = next(iter(trained.predictor.weights.values())).dtype

    def __repr__(self) -> str:
        recipe = self.checkpoint.recipe
        return f"<TrainedNetwork {self.file}: net {recipe.network}, {len(self.classes):,} classes, on {self.device}>"

    def plain(self) -> PlainAlexNet:
        """The same network as an ordinary PyTorch module, in eval mode, on the CPU."""
        return PlainAlexNet.from_state(self.checkpoint.architecture(), self.checkpoint.model)

    @overload
    def predict(self, image: ImageLike, *, views: Literal[1, 10] = 10, top: int = 5) -> list[Guess]: ...
    @overload
    def predict(self, image: Images, *, views: Literal[1, 10] = 10, top: int = 5) -> list[list[Guess]]: ...
    def predict(self, image: Any, *, views: Literal[1, 10] = 10, top: int = 5) -> Any:
        """The `top` most probable classes, best first; for a list of images a list of such lists.

        views: 10, the paper's (four corners and the center, each with its mirror), or 1, the center.  Raises UserError,
        with the reason, for what is not an image.
        """
        if views not in (1, 10):
            raise UsageError(f"views is {views!r}: give 1 (the center) or 10")
        if top < 1:
            raise UsageError(f"top is {top!r}: give 1 or more")
        batch, is_list = self._batch(image)
        if batch is None:
            return []
        with torch.inference_mode():
            probabilities = average_probabilities([self.trained.predictor], batch, views)
        best = probabilities.topk(min(top, len(self.classes)))
        guesses = [
            [Guess(self.classes[i], p, self.class_names[i], i) for i, p in zip(indices, values, strict=True)]
            for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return guesses if is_list else guesses[0]

    def features(self, image: ImageLike | Images, layer: str = "fc7") -> torch.Tensor:
        """A layer's outputs for the center view, float32 on the CPU; for a list of images one row for each.

        layer: conv1, pool1, conv2, pool2, conv3, conv4 or pool5, (maps, H, W); fc6 or fc7, (4096,); fc8, the logits.
        conv1 and conv2 are before their activation.  Raises UsageError for another name.
        """
        if layer not in STAGES:
            raise UsageError(f"layer is {layer!r}: {did_you_mean(layer, STAGES)}")
        batch, is_list = self._batch(image)
        if batch is None:
            return torch.empty(0)
        found: dict[str, torch.Tensor] = {}

        def observe(stage: str, output: torch.Tensor) -> None:
            if stage == STAGES[layer]:
                found[stage] = output.float().cpu().contiguous()

        with torch.inference_mode():
            self.model(batch.cut_view(0), weights=self.trained.predictor.weights, observe=observe)
        (outputs,) = found.values()
        return outputs if is_list else outputs[0]

    def _batch(self, image: Any) -> tuple[EvaluationBatch | None, bool]:
        """The image or images, prepared, and whether there was a list of them; None for an empty list."""
        is_list = isinstance(image, list | tuple)
        images = list(image) if is_list else [image]
        if not images:
            return None, is_list
        pixels = np.stack([self._pixels(one) for one in images])
        cutter = view_cutter(torch.from_numpy(pixels).to(self.device), self._mean, self._dtype)
        indices = torch.arange(len(images))
        return EvaluationBatch(cutter, indices, indices), is_list

    def _pixels(self, image: ImageLike) -> npt.NDArray[np.uint8]:
        """(size, size, 3), by the options that the training images were made with."""
        name, content = file_of(image)
        pixels, problem = prepare(name, content, self.checkpoint.image_options)
        if pixels is None:
            raise UserError(f"{name}: {problem}")
        return pixels


def file_of(image: ImageLike) -> tuple[str, bytes | UserError]:
    """(name, bytes of an image file) of whatever people have; the bytes hold the same pixels, losslessly."""
    if isinstance(image, str | Path):
        return str(image), read(Path(image))
    if isinstance(image, bytes):
        return "bytes", image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise UsageError(
                f"an array of shape {image.shape} and dtype {image.dtype} is not an image here: give "
                "(height, width, 3) or (height, width) of uint8, RGB 0..255"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UsageError(f"a {type(image).__name__} is not an image here: give a PIL image, an array, a path or bytes")
    stream = io.BytesIO()
    # PNG holds no CMYK, TIFF does; EXIF travels along, for the orientation.
    kind = "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16") else "TIFF"
    image.save(stream, kind, exif=image.getexif())
    return f"PIL image {getattr(image, 'filename', '')}".strip(), stream.getvalue()
