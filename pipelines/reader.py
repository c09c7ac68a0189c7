"""Shards to JPEGs and labels: the reader, shared by all graphs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.pipelines.dali import fn
from alexnet_fast.tools.errors import UsageError

READER = "reader"
"""Name of the reader in every pipeline."""
TENSOR_BYTES = 4096
"""Reserved for each member in the buffer.  JPEGs stay in the mapped tar, and labels are short; with DALI's own 1 MiB a
buffer of 8192 samples reserves more than 16 GB of addresses."""
NO_NUMBER = -1
"""Label of a sample whose label is not a number."""


@dataclass(frozen=True)
class Reading:
    """What to read, and in which order."""

    tars: tuple[str, ...]
    indexes: tuple[str, ...]
    """The DALI index of each tar.  Without one DALI takes a tar that was cut short for a shorter one."""
    rank: int
    num_ranks: int
    shuffle_buffer: int | None
    """Samples in the buffer out of which samples are drawn at random; None reads them in order."""
    seed: int
    """Of the buffer's draws."""
    skip_cached: bool = False
    """Whether images that the decoder has kept are not read again."""

    @classmethod
    def of(cls, tars: Sequence[Path], indexes: Sequence[Path], **choices: Any) -> Reading:
        """From paths.  UsageError where one is no UTF-8: DALI takes no others."""
        for tar in tars:
            shown = os.fsencode(tar).decode(errors="backslashreplace")
            if shown != str(tar):
                raise UsageError(f"{shown}: DALI reads no file whose path is not UTF-8; rename the folder")
        return cls(tuple(map(str, tars)), tuple(map(str, indexes)), **choices)

    @classmethod
    def from_sample(cls, tars: Sequence[Path], indexes: Sequence[Path], *, offset: int, num_samples: int) -> Reading:
        """In order from the sample at `offset` of the tars' `num_samples` to the last one, then again from the first.

        A rank begins at sample num_samples * rank // num_ranks and reads on past its part.
        """
        return cls.of(tars, indexes, rank=offset, num_ranks=num_samples, shuffle_buffer=None, seed=0)


def read_samples(reading: Reading) -> tuple[Any, Any]:
    """JPEG bytes, (size,) uint8, and the label's digits, (5,) uint8, of each sample, both in host memory."""
    jpeg, digits = fn.readers.webdataset(
        name=READER,
        paths=list(reading.tars),
        index_paths=list(reading.indexes),
        ext=["jpg", "cls"],
        missing_component_behavior="error",
        shard_id=reading.rank,
        num_shards=reading.num_ranks,
        random_shuffle=reading.shuffle_buffer is not None,
        initial_fill=reading.shuffle_buffer or 1,
        seed=reading.seed,
        # True would prefault every mapped tar: each epoch would begin by reading the whole data set.
        read_ahead=False,
        tensor_init_bytes=TENSOR_BYTES,
        skip_cached_images=reading.skip_cached,
    )
    return jpeg, digits


def labels_of(digits: torch.Tensor) -> torch.Tensor:
    """(N,) int64 of (N, 5) uint8: five ASCII digits, always five; in host memory NO_NUMBER where one is no digit.

    Not by DALI, where each of four small operators keeps a batch waiting for as long as all of this takes.
    """
    values = digits - ord("0")  # in bytes: what stands before "0" becomes more than 9 too
    labels = values.long().mul_(10 ** torch.arange(4, -1, -1, device=digits.device)).sum(1)
    if digits.device.type == "cpu":
        labels[torch.from_numpy((values.numpy() > 9).any(1))] = NO_NUMBER
    return labels


def source_of(jpeg: Any) -> Any:
    """Where each sample came from, `tar:offset:member`, as (length,) uint8 text."""
    return fn.get_property(jpeg, key="source_info")
