"""A training script as people write it: the baseline of `bench.end_to_end`.

    python -m alexnet_fast.bench.plain_training SOURCE --reader folder|timm [--set KEY=VALUE]… --out FOLDER

In the style of torchvision's references: a folder of images, Pillow, DataLoader with a process for each core,
torch.optim.SGD, autocast; an evaluation and a checkpoint after each epoch.  `--reader timm`: timm's loader instead, on
WebDataset shards.  Network, initial weights and schedule are the recipe's.  What differs: one mean color instead of the
mean image, no PCA color jitter; timm draws random resized crops.  The last line of its output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.recipe import Recipe, load_recipe
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.network.model import AlexNet
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.crop import CROP

SIZE = 256
"""Pixels of the short side before the crop."""
MEAN_RGB = (123.675, 116.28, 103.53)
"""ImageNet's, as torchvision and timm have it, times 255."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class ImageFolder(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """FOLDER/CLASS/IMAGE, classes by name, as torchvision's: (3, 224, 224) float32 less the mean color, and label."""

    def __init__(self, folder: Path, *, train: bool) -> None:
        self.classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.images = [
            (file, label) for label, name in enumerate(self.classes) for file in sorted((folder / name).iterdir())
        ]
        self.train = train

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        file, label = self.images[place]
        image = Image.open(file).convert("RGB")
        scale = SIZE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        x, y = image.width - CROP, image.height - CROP
        x, y = (random.randint(0, x), random.randint(0, y)) if self.train else (x // 2, y // 2)
        pixels = np.asarray(image.crop((x, y, x + CROP, y + CROP)), dtype=np.float32) - np.array(MEAN_RGB, np.float32)
        if self.train and random.random() < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), label


def folder_loaders(source: Path, batch_size: int) -> tuple[Batches, Batches, int, int]:
    """(training batches, validation batches, training images, classes) of a folder with train and val."""
    train, val = ImageFolder(source / "train", train=True), ImageFolder(source / "val", train=False)
    options: dict[str, Any] = {"num_workers": num_cores(), "persistent_workers": True}
    return (
        torch.utils.data.DataLoader(train, batch_size, shuffle=True, drop_last=True, **options),
        torch.utils.data.DataLoader(val, batch_size, **options),
        len(train),
        len(train.classes),
    )


def timm_loaders(source: Path, batch_size: int) -> tuple[Batches, Batches, int, int]:
    """The same of a shards folder by timm, with its defaults but for color jitter."""
    from timm.data import create_dataset, create_loader

    manifest = json.loads((source / "dataset.json").read_text())
    loaders = []
    for split, training in (("train", True), ("val", False)):
        dataset = create_dataset("wds/", root=str(source), split=split, is_training=training, batch_size=batch_size)
        loaders.append(
            create_loader(
                dataset, (3, CROP, CROP), batch_size, is_training=training, use_prefetcher=False, color_jitter=None,
                mean=tuple(value / 255 for value in MEAN_RGB), std=(1 / 255,) * 3, num_workers=num_cores(),
                crop_pct=CROP / SIZE, device=torch.device("cpu"), persistent_workers=True,
            )
        )  # fmt: skip
    return loaders[0], loaders[1], manifest["splits"]["train"]["samples"], len(manifest["classes"])


READERS = {"folder": folder_loaders, "timm": timm_loaders}


def plain_network(recipe: Recipe, num_classes: int) -> PlainAlexNet:
    """With the weights that the recipe's run starts from."""
    architecture = recipe.architecture(num_classes)
    start = AlexNet(architecture)
    start.initialize(recipe.seed)
    return PlainAlexNet.from_state(architecture, start.state_dict()).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def top1_error(network: nn.Module, batches: Batches, dtype: torch.dtype) -> float:
    """Of the center crops, over all images."""
    network.eval()
    wrong = images = 0
    with torch.inference_mode():
        for pixels, labels in batches:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = network(pixels.contiguous(memory_format=torch.channels_last))
            wrong += int((logits.argmax(1) != labels).sum())
            images += len(labels)
    return wrong / images


def train(recipe: Recipe, loaders: tuple[Batches, Batches, int, int], out: Path) -> dict[str, Any]:
    """All epochs; what came of them."""
    batches, val_batches, num_images, num_classes = loaders
    schedule = Schedule(recipe, num_images // recipe.batch_size)
    network = plain_network(recipe, num_classes)
    weights = [tensor for name, tensor in network.named_parameters() if not name.endswith("bias")]
    biases = [tensor for name, tensor in network.named_parameters() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, 0.0, recipe.momentum)
    dtype = choose_precision(torch.device("cpu"), recipe.precision).dtype
    step, seconds, error = 0, 0.0, 1.0
    while step < schedule.num_steps:
        network.train()
        begun = time.perf_counter()
        for images, labels in batches:
            if step == schedule.num_steps:
                break
            rates = schedule.rates(step)
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rates.weights, rates.biases
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(network(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        seconds += time.perf_counter() - begun
        error = top1_error(network, val_batches, dtype)
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, out / "checkpoint.pt")
    return {"images": step * recipe.batch_size, "steps": step, "training_seconds": seconds, "top1_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    recipe = load_recipe("2013", asked.set)
    torch.manual_seed(recipe.seed)
    loaders = READERS[asked.reader](asked.source, recipe.batch_size)
    print(json.dumps(train(recipe, loaders, asked.out)))


if __name__ == "__main__":
    main()
