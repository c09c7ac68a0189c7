"""Finds the damaged sample after DALI has failed: its error says that an image cannot be decoded, not which."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from alexnet_fast.pipelines.reader import NO_NUMBER
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sharding.tar_writer import Sample, read_samples
from alexnet_fast.tools.storage.filesystem import open_file

CHUNK = 1024
"""Samples that are decoded together."""


@dataclass(frozen=True)
class Shards:
    """The shards of a stream, to be searched after an error."""

    tars: Sequence[Path]
    size: int
    """Pixels on each side of every image."""

    @classmethod
    def of(cls, dataset: Dataset, split: str) -> Shards:
        return cls(dataset.tars(split), dataset.image_options.size)


def altered(what: str) -> UserError:
    """The error for altered shards; what: the first problem, as "tar: reason"."""
    return UserError(
        f"{what}. The shards were altered after they were made: `alexnet-fast verify` lists all that was; "
        "remove that tar, and the same `alexnet-fast shard` command writes it again."
    )


def find_unusable(shards: Shards) -> str | None:
    """ "tar: stem (reason)" of the first image that cannot be used, or "tar: reason" of the first broken tar.

    Decodes on all cores until it is found; None where all is well.
    """
    with ThreadPoolExecutor(num_cores()) as pool:
        for tar in shards.tars:
            problem = first_problem(tar, shards.size, pool)
            if problem:
                return f"{tar}: {problem}"
    return None


def check_labels(labels: torch.Tensor, dataset: Dataset) -> None:
    """UserError where one of a batch's labels, (N,) int64 of `labels_of`, is none of the classes.

    Looks only at labels in host memory: on a GPU every step would have to wait for the answer.  There
    `alexnet-fast train --check-hashes` and `alexnet-fast verify` find them.
    """
    if labels.device.type != "cpu":
        return
    numbers = labels.numpy()  # each operation of torch would take longer than all of these
    wrong = numbers[(numbers < 0) | (numbers >= len(dataset.classes))]
    if len(wrong):
        what = f"a sample has label {wrong[0]}, and there are {len(dataset.classes):,} classes"
        if wrong[0] == NO_NUMBER:
            what = "a sample's label is not a number"
        raise UserError(
            f"{dataset.folder}: {what}. "
            "The shards were altered after they were made: `alexnet-fast verify` lists which."
        )


def first_problem(tar: Path, size: int, pool: ThreadPoolExecutor) -> str | None:
    """Stem and reason of the tar's first image that cannot be used, or what is wrong with it; None: it is fine."""
    num_samples = 0
    try:
        with open_file(tar.with_suffix(".idx")) as file:
            num_listed = len(file.read().splitlines()) - 1  # its first line is a version
        with open_file(tar) as file:
            samples = read_samples(file)
            while chunk := list(islice(samples, CHUNK)):
                num_samples += len(chunk)
                for problem in pool.map(problem_of, chunk, repeat(size)):
                    if problem:
                        return problem
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if num_samples != num_listed:  # zeros are a tar's end, wherever they stand
        return f"holds {counted(num_samples, 'sample')}, its index lists {num_listed:,}"
    return None


def problem_of(sample: Sample, size: int) -> str:
    """Empty where the image is fine, `size` pixels wide and high."""
    try:
        image = Image.open(io.BytesIO(sample.jpeg))
        image.load()
    except UnidentifiedImageError:  # its message names an object in memory
        return f"{sample.stem} (not an image)"
    except Exception as error:  # whatever Pillow's decoder raises on damaged bytes
        return f"{sample.stem} ({error})"
    if image.size != (size, size):
        return f"{sample.stem} (it has {image.width}×{image.height} pixels, not {size}×{size})"
    return ""
