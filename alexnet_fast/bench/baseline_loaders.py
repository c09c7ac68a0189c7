"""Baselines for our loader: PyTorch's DataLoader with Pillow's and torchvision's decoders, webdataset and FFCV.

They do the same work on the same JPEGs where possible.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.bench.interleaved import Candidate, Took
from alexnet_fast.tools.crop import CROP, center_crop
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.tar_writer import read_samples as samples_of_tar
from alexnet_fast.tools.temporary import temporary_folder

FFCV_BASELINE = Path(__file__).with_name("ffcv_baseline.py")


def why_missing(module: str) -> str | None:
    """Why it cannot be imported; None where it can be."""
    try:
        importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError beside a torch of another build
        return f"{type(error).__name__}: {error}"
    return None


Decode = Callable[[bytes], npt.NDArray[np.uint8]]
"""JPEG -> (H, W, 3)."""


def with_pillow(jpeg: bytes) -> npt.NDArray[np.uint8]:
    """What most people decode with."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@dataclass(frozen=True)
class Recipe:
    """The arithmetic of our pipeline, for loaders that do it in Python."""

    mean: npt.NDArray[np.float32]
    """(224, 224, 3): the mean image's center."""
    directions: npt.NDArray[np.float32]
    """(3, 3): column i is the i-th eigenvector of the colors' covariance times the standard deviation along it."""
    pca_jitter: float = 0.1

    @classmethod
    def of(cls, dataset: Dataset) -> Recipe:
        statistics, mean = dataset.statistics, center_crop(dataset.mean_image)
        return cls(mean, (statistics.standard_deviations[:, None] * statistics.directions).T.astype(np.float32))

    def view(self, jpeg: bytes, decode: Decode | None = None) -> torch.Tensor:
        """(224, 224, 3) float32: random crop, mirror, PCA color jitter and mean image with numpy; decoded by Pillow."""
        image = (decode or with_pillow)(jpeg)
        margin = image.shape[0] - CROP
        y, x = np.random.randint(margin + 1), np.random.randint(margin + 1)  # noqa: NPY002 (what people write)
        view = image[y : y + CROP, x : x + CROP]
        if np.random.rand() < 0.5:  # noqa: NPY002
            view = view[:, ::-1]
        shift = self.directions @ np.random.normal(0, self.pca_jitter, 3).astype(np.float32)  # noqa: NPY002
        pixels = view.astype(np.float32)
        pixels -= self.mean
        for channel in range(3):  # three times as fast as adding the three numbers to every pixel at once
            pixels[..., channel] += shift[channel]
        pixels *= np.float32(1 / (1 + self.pca_jitter))
        return torch.from_numpy(pixels)


FRESH = "spawn"
"""How the workers are started: forked ones would inherit how this process keeps its memory, which no user's do."""


def all_jpegs(dataset: Dataset, split: str) -> Iterator[tuple[bytes, int]]:
    """(JPEG, label) of the split's samples in order, repeated forever."""
    while True:
        for tar in dataset.tars(split):
            with tar.open("rb") as file:
                for sample in samples_of_tar(file):
                    yield sample.jpeg, sample.label


class JpegsInMemory(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Views of JPEGs that are in memory already."""

    def __init__(self, jpegs: list[tuple[bytes, int]], recipe: Recipe, decode: Decode) -> None:
        self.jpegs = jpegs
        self.recipe, self.decode = recipe, decode

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        jpeg, label = self.jpegs[place]
        return self.recipe.view(jpeg, self.decode), label


def leave_at_once(worker: int) -> None:
    """Exit a worker at once on SIGTERM, without Python's finalization.

    That would stop the thread which hands batches over in the midst of torch: now and then the process was aborted.
    """
    Finalize(None, os._exit, (0,), exitpriority=0)


def torch_loader(
    jpegs: list[tuple[bytes, int]], recipe: Recipe, batch_size: int, workers: int, decode: Decode = with_pillow
) -> Callable[[], Iterator[object]]:
    """torch.utils.data.DataLoader, one worker process for each core."""
    loader = torch.utils.data.DataLoader(
        JpegsInMemory(jpegs, recipe, decode), batch_size, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=True, multiprocessing_context=FRESH, worker_init_fn=leave_at_once,
    )  # fmt: skip
    return partial(channels_last, loader)


def webdataset_loader(
    dataset: Dataset, split: str, recipe: Recipe, batch_size: int, workers: int
) -> Callable[[], Iterator[object]]:
    """webdataset with Pillow, reading the same shards, one worker process for each core."""
    import webdataset

    tars = [str(tar) for tar in dataset.tars(split)]
    source = webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False).repeat()
    views = source.shuffle(1000).to_tuple("jpg", "cls").map_tuple(recipe.view, int)
    loader = torch.utils.data.DataLoader(
        views.batched(batch_size, partial=False), batch_size=None, num_workers=min(workers, len(tars)),
        persistent_workers=True, multiprocessing_context=FRESH, worker_init_fn=leave_at_once,
    )  # fmt: skip
    return partial(channels_last, loader)


def channels_last(loader: torch.utils.data.DataLoader[Any]) -> Iterator[object]:
    """The network's input: (N, 3, 224, 224) with channels-last strides, and labels."""
    for images, labels in loader:
        yield images.permute(0, 3, 1, 2), labels


# ------------------------------------------------------------------------ FFCV


@contextmanager
def open_ffcv(
    python: Path, jpegs: list[tuple[bytes, int]], recipe: Recipe, batch_size: int, threads: int
) -> Iterator[list[Candidate]]:
    """FFCV in a process of its own: its images are the same JPEGs, or raw pixels.

    It has no PCA color jitter and no mean image, so it does less than ours.

    Raises UsageError where `python` has no FFCV.
    """
    check_ffcv(python)
    with temporary_folder("ffcv") as folder:
        np.savez(folder / "jpegs.npz", lengths=[len(jpeg) for jpeg, _ in jpegs],
                 content=np.frombuffer(b"".join(jpeg for jpeg, _ in jpegs), np.uint8))  # fmt: skip
        mean = recipe.mean.mean((0, 1)).tolist()
        command = [str(python), str(FFCV_BASELINE), str(folder), json.dumps(mean), str(batch_size), str(threads)]
        with (folder / "errors.txt").open("w+") as errors, subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:  # fmt: skip
            try:
                names = json.loads(answer(process, errors))
                yield [Candidate(variant, partial(ask, process, errors, variant)) for variant in names]
            finally:
                process.kill()


def check_ffcv(python: Path) -> None:
    """UsageError, with the reason, where FFCV cannot be imported."""
    try:
        tried = subprocess.run([str(python), "-c", "import ffcv"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"--ffcv-python {python}: cannot be started ({error.strerror}).") from error
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(
            f"--ffcv-python {python}: cannot import FFCV ({reason}). Give a Python that has it; "
            "benchmarks/LOG.md has the versions with which it was installed."
        )


def ask(process: subprocess.Popen[str], errors: IO[str], variant: str, lead: int, count: int) -> Took:
    """`Candidate.turn` of one of FFCV's variants."""
    assert process.stdin is not None
    process.stdin.write(json.dumps([variant, lead, count]) + "\n")
    process.stdin.flush()
    return Took(*json.loads(answer(process, errors)))


def answer(process: subprocess.Popen[str], errors: IO[str]) -> str:
    """A line of FFCV's process; UserError with its last line of error output where it ended."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("answer "):  # FFCV prints things of its own
            return line.removeprefix("answer ")
    errors.seek(0)
    lines = errors.read().strip().splitlines() or ["without a message"]
    raise UserError(f"FFCV's process ended: {lines[-1]}. Leave --ffcv-python out to measure without it.")
