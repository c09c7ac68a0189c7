"""What is wrong with the shards when a stream stops: DALI says that a picture cannot be decoded, not which."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from alexnet_fast.pipelines.settings import num_cores
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.shard_file import Sample, read_samples

CHUNK = 1024
"""Samples that are decoded together."""


def find_undecodable(tars: list[Path]) -> str | None:
    """ "tar: stem (reason)" of the first picture that cannot be decoded, or of the first place that cannot be read.

    Decodes on all cores until it is found; None where all is well.
    """
    with ThreadPoolExecutor(num_cores()) as pool:
        for tar in tars:
            problem = first_problem(tar, pool)
            if problem:
                return f"{tar}: {problem}"
    return None


def check_labels(labels: torch.Tensor, dataset: Dataset) -> None:
    """UserError where one of a batch's labels, (N,) int64, is none of the classes.

    Looks only at labels in host memory: on a GPU every step would have to wait for the answer.  There
    `alexnet-fast train --check-hashes` and `alexnet-fast verify` find them.
    """
    if labels.device.type != "cpu":
        return
    wrong = labels[(labels < 0) | (labels >= len(dataset.classes))]
    if len(wrong):
        raise UserError(
            f"{dataset.folder}: a sample has label {int(wrong[0])}, and there are {len(dataset.classes):,} classes. "
            "The shards were altered after they were made: `alexnet-fast verify` tells which."
        )


def first_problem(tar: Path, pool: ThreadPoolExecutor) -> str | None:
    """Stem and reason of the tar's first picture that cannot be decoded, or why it cannot be read; None: it is fine."""
    try:
        with tar.open("rb") as file:
            samples = read_samples(file)
            while chunk := list(islice(samples, CHUNK)):
                for problem in pool.map(problem_of, chunk):
                    if problem:
                        return problem
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def problem_of(sample: Sample) -> str:
    """Empty where the picture is fine."""
    try:
        Image.open(io.BytesIO(sample.jpeg)).load()
    except Exception as error:  # whatever Pillow's decoder raises on damaged bytes
        return f"{sample.stem} ({error})"
    return ""
