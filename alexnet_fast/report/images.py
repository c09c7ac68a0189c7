"""Arrays and JPEGs as data URIs, and images of a split by their places."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from alexnet_fast.inference.load import Trained, mean_to_subtract
from alexnet_fast.pipelines.diagnosis import altered
from alexnet_fast.pipelines.evaluation_loader import view_cutter
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.storage.filesystem import open_file

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]

THUMBNAIL = 144
"""Pixels on a side of the images in the page, enough for twice the size that they are shown in."""
QUALITY = 82


@dataclass(frozen=True)
class Stored:
    """One image as it lies in the shards."""

    stem: str
    label: int
    pixels: Pixels
    """(S, S, 3)"""


def read_places(dataset: Dataset, split: str, places: Iterable[int]) -> dict[int, Stored]:
    """Images of a split by their places in the order of the shards, each read where the shard's index says.

    Raises UserError where a shard was altered.
    """
    ends = np.cumsum([shard.samples for shard in dataset.split(split).shards])
    wanted: dict[int, list[int]] = defaultdict(list)
    for place in sorted(set(places)):
        wanted[int(np.searchsorted(ends, place, side="right"))].append(place)
    found: dict[int, Stored] = {}
    for number, own in wanted.items():
        tar, index = dataset.tars(split)[number], dataset.indexes(split)[number]
        first = int(ends[number]) - dataset.split(split).shards[number].samples
        with open_file(index) as file:
            lines = file.read().decode("ascii").splitlines()[1:]
        with open_file(tar) as file:
            for place in own:
                members = lines[place - first].split(" ")
                entries = {
                    kind: (int(at), int(size))
                    for kind, at, size in zip(members[::4], members[1::4], members[2::4], strict=True)
                }
                try:
                    content = {}
                    for kind, (at, size) in entries.items():
                        file.seek(at)
                        content[kind] = file.read(size)
                    pixels = np.asarray(Image.open(io.BytesIO(content["jpg"])).convert("RGB"))
                    found[place] = Stored(members[3].removesuffix(".cls"), int(content["cls"]), pixels)
                except (OSError, ValueError, KeyError) as error:
                    raise altered(f"{tar}: sample {members[3]!r} cannot be read ({error})") from error
    return found


def center_views(pixels: list[Pixels], trained: Trained, dtype: torch.dtype) -> torch.Tensor:
    """(N, 3, 224, 224), as the network takes them, on its device."""
    device = next(trained.predictor.model.parameters()).device
    mean = mean_to_subtract(trained.checkpoint.mean).to(device)
    return view_cutter(torch.from_numpy(np.stack(pixels)).to(device), mean, dtype)(0)


def thumbnail(pixels: Pixels, size: int = THUMBNAIL) -> str:
    """A JPEG of at most `size` pixels on a side, as a data URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((size, size))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return data_uri(stream.getvalue(), "image/jpeg")


def png(pixels: Pixels) -> str:
    """(H, W) or (H, W, 3), or with alpha (H, W, 4): a data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
