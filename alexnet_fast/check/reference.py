"""What a device computes against plain formulas in float64 on the CPU.

The checks call these with the GPU, the tests with the CPU too: what is wrong with a line shows before a GPU is there.
"""

from __future__ import annotations

import io
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from alexnet_fast.check.runner import CheckFailedError
from alexnet_fast.config.precision import Precision
from alexnet_fast.inference.evaluation import Predictor, average_probabilities
from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.network.dropout import DropoutKey, dropout_mask, step_key
from alexnet_fast.network.model import LAYERS, NETS, AlexNet, small, whole_state
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.loader import EvaluationLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.sharding.tar_writer import read_samples as samples_of_tar
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

FP32 = Precision("fp32", torch.float32, "")
IMAGES, PIXELS = 16, 131
"""Of a small batch, and on each side of its images."""
SMALL = small(NETS["145"], divisor=4)
"""What is trained against the formula."""
EVALUATED = 14
"""Images in ten views."""
LR_WEIGHTS, LR_BIASES, SEED = 0.01, 0.02, 7


def small_batch(number: int, device: torch.device, pixels: int = PIXELS) -> Batch:
    """The same on every device."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(IMAGES, 3, pixels, pixels, generator=generator) * 60
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    return Batch(images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device))


# -------------------------------------------------------------------------------- ten views


def pixels_by_pillow(tars: list[Path]) -> np.ndarray[Any, np.dtype[np.int16]]:
    """(N, size, size, 3)"""
    found = []
    for tar in tars:
        with tar.open("rb") as file:
            found += [np.asarray(Image.open(io.BytesIO(sample.jpeg)), np.int16) for sample in samples_of_tar(file)]
    return np.stack(found)


def ten_views_by_hand(dataset: Dataset) -> list[torch.Tensor]:
    """Each (N, 3, 224, 224) float64: the center, the four corners, and the mirrors of these five."""
    pixels = torch.from_numpy(pixels_by_pillow(dataset.tars("val"))).double().permute(0, 3, 1, 2)
    mean = torch.from_numpy(dataset.mean_image).double().permute(2, 0, 1)
    far = pixels.shape[-1] - CROP
    middle = far // 2
    center = mean[:, middle : middle + CROP, middle : middle + CROP]
    places = ((middle, middle), (0, 0), (0, far), (far, 0), (far, far))
    crops = [pixels[:, :, y : y + CROP, x : x + CROP] for y, x in places]
    return [crop - center for crop in crops] + [crop.flip(3) - center for crop in crops]


def opinionated(model: AlexNet) -> AlexNet:
    """With weights by which its guesses depend on the image: those of a start give all classes the same."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                gain = 0.1 if name.startswith("fc8") else 1.0  # or one class would have it all
                parameter.normal_(0, gain * (2 / parameter[0].numel()) ** 0.5, generator=generator)
    return model


def compare_ten_views(dataset: Dataset, device: torch.device) -> str:
    """Evaluation on the device against crops of Pillow's pixels and the ordinary module in float64."""
    architecture = small(NETS["167"], divisor=16, image_size=CROP, num_classes=len(dataset.classes))
    model = opinionated(AlexNet(architecture)).to(device)
    plain = PlainAlexNet.from_state(architecture, whole_state(model)).double()
    views = [view[:EVALUATED] for view in ten_views_by_hand(dataset)]
    options = LoaderOptions(1, decode_on="cpu")  # as Pillow decodes; `decoders` compares the other places
    loader = EvaluationLoader(dataset, batch_size=EVALUATED // 2, device=device, options=options)
    predictor = Predictor(model, model.working_weights(torch.float32))
    off, apart, spread, done = 0.0, 0.0, 0.0, 0
    with torch.inference_mode():
        for batch in islice(loader, 2):
            own = slice(done, done + len(batch.labels))
            done = own.stop
            for number, view in enumerate(views):
                found = batch.cut_view(number).double().cpu()
                off = max(off, float((found - view[own]).abs().max()))
            expected = torch.stack([F.softmax(plain(view[own]), 1) for view in views]).mean(0)
            probabilities = average_probabilities([predictor], batch, 10).double().cpu()
            apart = max(apart, float((probabilities - expected).abs().max()))
            spread = max(spread, float(expected.max() - expected.min()))
    figures = f"{done} images: pixels within {off:.1e}, probabilities of 0 to {spread:.2f} within {apart:.1e}"
    if off > 1e-4 or apart > 1e-3 * spread:
        raise CheckFailedError(f"ten views differ from crops on the CPU: {figures}")
    return f"ten views against crops on the CPU in float64, {figures}"


# ------------------------------------------------------------------------------------- step


class KnownDropout(nn.Module):
    """The masks of a step's key, for fc6 and fc7 in turns."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.key = DropoutKey(torch.tensor(0))
        self.layers = cycle((6, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(dropout_mask(self.key, next(self.layers), x.shape[0], x.shape[1], 0, self.rate), x, 0)


def train_by_hand(start: dict[str, torch.Tensor], steps: int) -> dict[str, torch.Tensor]:
    """The weights after some steps of v ← 0.9·v − ε·g − 5e-4·ε·w;  w ← w + v, with torch's own gradients in float64."""
    plain = PlainAlexNet.from_state(SMALL, start).double().train()
    dropout = KnownDropout(SMALL.dropout)
    plain.dropout = dropout
    weights = dict(plain.named_parameters())
    momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for number in range(steps):
        batch = small_batch(number, torch.device("cpu"), SMALL.image_size)
        dropout.key = DropoutKey(torch.tensor(step_key(SEED, number)))
        loss = F.cross_entropy(plain(batch.images.double()), batch.labels)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                rate, decay = (LR_BIASES, 0.0) if name.endswith("bias") else (LR_WEIGHTS, 5e-4)
                momentum[name] = 0.9 * momentum[name] - rate * gradient - decay * rate * weight
                weight.add_(momentum[name])
    return {name: weight.detach() for name, weight in weights.items()}


def layers_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layer -> its weights and biases in one row, float64."""
    return {
        layer: torch.cat([state[f"{layer}.{kind}"].double().flatten() for kind in ("weight", "bias")])
        for layer in LAYERS
    }


def compare_steps(device: torch.device, steps: int, dtype: torch.dtype = torch.float32) -> str:
    """Training steps, one CUDA graph each on a GPU, against those; relative to how far each layer moved.

    Weights and biases together: biases that start at 1 move by little more than float32 resolves there.
    """
    model = AlexNet(SMALL).to(device, dtype)
    model.initialize(1)
    start = {name: tensor.clone() for name, tensor in whole_state(model).items()}
    optimizer = SGD(model)
    optimizer.set_rates(weights=LR_WEIGHTS, biases=LR_BIASES)
    step = TrainingStep(model, optimizer, precision=FP32)
    if device.type == "cuda" and (problem := step.capture(IMAGES, torch.float32)) is not None:
        raise CheckFailedError(problem)
    for number in range(steps):
        batch = small_batch(number, device, SMALL.image_size)
        step(Batch(batch.images.to(dtype), batch.labels), step=number, seed=SEED)
    step.drain()
    before, found, expected = (layers_of(state) for state in (start, whole_state(model), train_by_hand(start, steps)))
    apart = {
        layer: float((found[layer] - expected[layer]).norm() / (expected[layer] - before[layer]).norm())
        for layer in expected
    }
    worst = max(apart, key=lambda name: apart[name])
    how = "one CUDA graph each" if device.type == "cuda" else "eager"
    figures = f"{steps} steps, {how}: at most {apart[worst]:.1e} of the way that a layer went ({worst})"
    if not apart[worst] < (2e-2 if dtype == torch.float32 else 1e-9):
        raise CheckFailedError(f"training differs from the formula in float64: {figures}")
    return f"training against the formula in float64, {figures}"
