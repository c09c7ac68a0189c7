"""Names for images: any image, made ready as the sharder would, seen in ten views."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.inference.evaluation import average_probabilities
from alexnet_fast.inference.load import Trained, mean_to_subtract
from alexnet_fast.inference.pixels import network_pixels
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.pipelines.evaluation_loader import view_cutter
from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.image import BadImageError
from alexnet_fast.tools.storage.filesystem import open_file

TOP = 5
BATCH = 32
STDIN = "-"
LARGEST = 256 << 20
"""Bytes of a file that is still taken for an image."""


@dataclass(frozen=True)
class Answer:
    """About one image."""

    image: str
    names: tuple[tuple[str, str, float], ...] = ()
    """(class name, label, probability), the most probable first."""
    problem: str = ""
    """Why there are no names."""


def predict(
    trained: Trained,
    sources: Sequence[str],
    *,
    device: torch.device,
    precision: Precision,
    num_views: Literal[1, 10] = 10,
) -> Iterator[Answer]:
    """Five names for each image, in order.  `sources`: files, folders, "-" for one image's bytes on stdin."""
    mean = mean_to_subtract(trained.checkpoint.mean).to(device)
    images = images_of(sources)
    while batch := list(islice(images, BATCH)):
        made = [(name, content, *prepare(name, content, trained.checkpoint.image_options)) for name, content in batch]
        good = [pixels for *_, pixels, _ in made if pixels is not None]
        probabilities: Iterator[torch.Tensor] = iter(())
        if good:
            stacked = torch.from_numpy(np.stack(good)).to(device)
            cutter = view_cutter(stacked, mean, precision.dtype)
            indices = torch.arange(len(good))
            with torch.inference_mode():
                probabilities = iter(
                    average_probabilities([trained.predictor], EvaluationBatch(cutter, indices, indices), num_views)
                    .cpu()
                    .unbind()
                )
        for name, _, pixels, problem in made:
            yield Answer(name, problem=problem) if pixels is None else answer(name, next(probabilities), trained)


def answer(name: str, probabilities: torch.Tensor, trained: Trained) -> Answer:
    """The most probable classes of one image."""
    best = probabilities.topk(min(TOP, len(probabilities)))
    classes = trained.checkpoint.classes
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Answer(name, tuple((*classes[index], probability) for index, probability in pairs))


def prepare(
    name: str, content: bytes | UserError, options: ImageOptions
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None, str]:
    """(pixels (size, size, 3) as those of the network's training images, or None; the problem)."""
    if isinstance(content, UserError):
        return None, str(content)
    try:
        return network_pixels(content, name, options), ""
    except BadImageError as error:
        return None, str(error)


def images_of(sources: Sequence[str]) -> Iterator[tuple[str, bytes | UserError]]:
    """(name, bytes) of each image; in folders of every file, by name, hidden ones skipped."""
    for source in sources:
        if source == STDIN:
            yield "stdin", read_stdin()
        elif os.path.isdir(source):  # noqa: PTH112 (False, no error, for a name too long)
            yield from images_in(source)
        else:
            yield source, read(Path(source))


def images_in(folder: str) -> Iterator[tuple[str, bytes | UserError]]:
    """(name, bytes) of every file below a folder, then the folders that cannot be listed."""
    files, barred = files_below(folder)
    if not files and not barred:
        yield folder, UserError("there is no file in this folder")
    for file in files:
        yield str(file), read(file)
    for error in barred:
        yield str(error.filename), UserError(f"cannot be listed ({error.strerror})")


def files_below(folder: str) -> tuple[list[Path], list[OSError]]:
    """(files below a folder by name, hidden ones skipped; an error for each folder that cannot be listed)."""
    barred: list[OSError] = []
    files = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=barred.append)
        for name in names
        if not name.startswith(".") and Path(parent, name).is_file()
    )
    return files, barred


def read(file: Path) -> bytes | UserError:
    """The file's bytes, or why there are none."""
    try:
        with open_file(file) as opened:
            return read_some(opened)
    except FileNotFoundError:
        return UserError("there is no such file")
    except OSError as error:
        return UserError(f"cannot be read ({error.strerror})")


def read_stdin() -> bytes | UserError:
    """What comes on standard input, or why nothing does."""
    if sys.stdin is None:
        return UserError("standard input is closed")
    try:
        return read_some(sys.stdin.buffer)
    except OSError as error:
        return UserError(f"cannot be read ({error.strerror})")


def read_some(file: IO[bytes]) -> bytes | UserError:
    """All of it, unless it has no end, as a device may, or is too large for an image."""
    content = file.read(LARGEST + 1)
    return content if len(content) <= LARGEST else UserError(f"not an image: more than {LARGEST >> 20} MiB")
