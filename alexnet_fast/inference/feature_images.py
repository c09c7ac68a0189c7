"""The images whose features are computed, in order and in parts: a split of a shards folder, or a folder of files."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from alexnet_fast.inference.load import Trained, mean_to_subtract
from alexnet_fast.inference.predict import files_below, prepare, read
from alexnet_fast.pipelines.evaluation_loader import EvaluationLoader, view_cutter
from alexnet_fast.pipelines.seeds import part_of_rank
from alexnet_fast.tools.dataset import MANIFEST, Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import open_file

BATCH = 128


@dataclass(frozen=True)
class Row:
    """One image."""

    sample: str
    label: int | None = None
    problem: str = ""


class Images(Protocol):
    """Where images come from: shards, or a folder of files."""

    num_images: int
    fingerprint: str
    """Changes with the images and with their order."""

    def part(
        self, number: int, num_parts: int, trained: Trained, device: torch.device, dtype: torch.dtype
    ) -> Iterator[tuple[list[Row], torch.Tensor, list[int]]]:
        """A part's batches in order: rows, center views of the good ones, and which of the rows are good."""
        ...


class ShardImages:
    """A split of a shards folder, in the order of the shards."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.split = dataset, split
        self.num_images = dataset.split(split).samples
        self.fingerprint = f"{dataset.fingerprint} {split}"
        self.ends = list(accumulate(shard.samples for shard in dataset.split(split).shards))

    def part(
        self, number: int, num_parts: int, trained: Trained, device: torch.device, dtype: torch.dtype
    ) -> Iterator[tuple[list[Row], torch.Tensor, list[int]]]:
        loader = EvaluationLoader(
            self.dataset, split=self.split, batch_size=BATCH, device=device, dtype=dtype,
            mean=mean_to_subtract(trained.checkpoint.mean), rank=number, num_ranks=num_parts,
        )  # fmt: skip
        stems = self.stems_from(part_of_rank(self.num_images, number, num_parts).start)
        for batch in loader:
            rows = [Row(stem, label) for label, stem in zip(batch.labels.tolist(), stems, strict=False)]
            yield rows, batch.cut_view(0), list(range(len(rows)))

    def stems_from(self, place: int) -> Iterator[str]:
        """Of the split's samples from this one on, a shard at a time: 14 M stems would take more than a gigabyte."""
        shard = bisect_right(self.ends, place)
        before = self.ends[shard - 1] if shard else 0
        stems = chain.from_iterable(map(stems_of, self.dataset.indexes(self.split)[shard:]))
        return islice(stems, place - before, None)


def stems_of(index: Path) -> list[str]:
    """Stems of a shard's samples in order, from its DALI index."""
    with open_file(index) as file:
        lines = file.read().decode("ascii").splitlines()[1:]
    return [line.split(" ")[3].removesuffix(".cls") for line in lines]


class FolderImages:
    """Every file below a folder, by name, made ready as the network's training images were."""

    def __init__(self, folder: Path) -> None:
        files, barred = files_below(str(folder))
        if barred:
            raise UserError(f"{barred[0].filename}: cannot be listed ({barred[0].strerror}). Give yourself the right.")
        if not files:
            raise UsageError(f"{folder}: there is no file in it. Give a shards folder, or a folder of images.")
        self.files = [str(file) for file in files]
        self.num_images = len(self.files)
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file}\0{version_of(file)}\0".encode("utf-8", "surrogateescape"))
        self.fingerprint = digest.hexdigest()

    def part(
        self, number: int, num_parts: int, trained: Trained, device: torch.device, dtype: torch.dtype
    ) -> Iterator[tuple[list[Row], torch.Tensor, list[int]]]:
        mean = mean_to_subtract(trained.checkpoint.mean).to(device)
        places = part_of_rank(self.num_images, number, num_parts)
        for start in range(places.start, places.stop, BATCH):
            names = self.files[start : min(start + BATCH, places.stop)]
            made = [prepare(name, read(Path(name)), trained.checkpoint.image_options) for name in names]
            rows = [Row(name, None, problem) for name, (_, problem) in zip(names, made, strict=True)]
            good = [place for place, (pixels, _) in enumerate(made) if pixels is not None]
            stacked = [pixels for pixels, _ in made if pixels is not None]
            images = torch.empty(0)
            if stacked:
                images = view_cutter(torch.from_numpy(np.stack(stacked)).to(device), mean, dtype)(0)
            yield rows, images, good


def version_of(file: Path) -> str:
    """Changes with the file's content, as far as its size and its time say; "" where nothing can be said."""
    try:
        status = file.stat()
    except OSError:  # its row will say so
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def images_of(data: Path, split: str) -> Images:
    """Shards where there is a manifest, else the files of a folder; UsageError where there is neither."""
    if data.name == MANIFEST or (data / MANIFEST).exists():
        dataset = Dataset.load(data)
        dataset.check_sizes(split)
        return ShardImages(dataset, split)
    if not data.is_dir():
        raise UsageError(f"{data}: there is no such folder. Give a shards folder, or a folder of images.")
    return FolderImages(data)
