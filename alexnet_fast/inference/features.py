"""What the network makes of every image at a chosen layer, as one memory-mapped .npy array with a table beside it.

FILE.npy: (N, D) float16 or float32; row i belongs to image i.  FILE.tsv, the same rows in the same order: row, sample
(its stem in the shards, or the image file), label (class index; empty where unknown), class, problem (why an
image could not be used: its row holds NaN).

The work is cut into parts.  Finished parts are noted in a folder beside the array, so that the same command continues
after a stop, with any number of processes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from alexnet_fast.config.precision import choose_precision, name_of
from alexnet_fast.distributed.launcher import launch
from alexnet_fast.distributed.mesh import Mesh, all_gather_object, broadcast_object
from alexnet_fast.distributed.parallelism import choose_layout
from alexnet_fast.inference.evaluation import Predictor
from alexnet_fast.inference.feature_images import BATCH, Images, Row, images_of
from alexnet_fast.inference.load import Trained, load_trained
from alexnet_fast.pipelines.seeds import part_of_rank
from alexnet_fast.runs.folder import LOCK, to_json
from alexnet_fast.runs.lock import locked
from alexnet_fast.tools import atomic
from alexnet_fast.tools.describe import human_bytes
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import did_you_mean
from alexnet_fast.tools.sharding.finalize import escaped

OBSERVED = {
    "pool1": "norm1+pool1",
    "pool2": "norm2+pool2",
    "conv3": "conv3",
    "conv4": "conv4",
    "pool5": "conv5",
    "fc6": "fc6",
    "fc7": "fc7",
    "fc8": "fc8",
}
"""Layer -> its name in the forward pass.  All are taken after their activation and, for pool5, after pooling; fc6 and
fc7 with the factor 0.5 that stands for dropout at test time; fc8 are the logits.  Maps are flattened as (C, H, W)."""
DTYPES = ("float16", "float32")
PART_IMAGES = 4096
"""Images of a part: what a stop can lose, at most, in each process."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def layer_output(predictor: Predictor, images: torch.Tensor, layer: str) -> torch.Tensor:
    """(N, 3, 224, 224) as the network takes them -> (N, D) float32 of a layer in `OBSERVED`, for the center view."""
    found: list[torch.Tensor] = []

    def keep(name: str, output: torch.Tensor) -> None:
        if name == OBSERVED[layer]:
            found.append(output)

    with torch.inference_mode():
        predictor.model(images, weights=predictor.weights, observe=keep)
        return found[0].float().flatten(1)


@dataclass(frozen=True)
class Request:
    """The arguments of every process."""

    checkpoint: Path
    data: Path
    split: str
    layer: str
    out: Path
    dtype: str
    precision: str


def write_features(
    request: Request,
    *,
    device: str | None = None,
    gpus: int | None = None,
    processes: int | None = None,
    say: Callable[[str], None],
) -> list[Row]:
    """Write `request.out` and its table, or what is left of them; the rows that hold NaN because of a problem.

    Raises UsageError for an unknown layer or data of another kind; UserError where the disk is full: finished parts
    stay, and the same call continues.
    """
    if request.layer not in OBSERVED:
        raise UsageError(f"--layer {request.layer}: {did_you_mean(request.layer, OBSERVED)}")
    if request.out.suffix != ".npy":
        raise UsageError(f"--out {request.out}: the name must end in .npy")
    trained = load_trained(request.checkpoint, torch.device("cpu"), choose_precision(torch.device("cpu"), "fp32"))
    layout = choose_layout(
        trained.checkpoint.architecture(), BATCH * 12, precision=request.precision, device=device, gpus=gpus,
        processes=processes, parallel="data",
    )  # fmt: skip
    say(f"{layout.reason}; {request.layer} of {trained.file}")
    return launch(layout, work, replace(request, checkpoint=trained.file))


def work(mesh: Mesh, device: torch.device, request: Request) -> list[Row]:
    """One process's parts; the main rank puts the result under its name."""
    precision = choose_precision(device, request.precision)
    # The main rank's: a run that trains on may have saved a newer one since another rank looked.
    file = broadcast_object(mesh, request.checkpoint)
    trained = load_trained(file, device, precision)
    images = images_of(request.data, request.split)
    target = Target(request, images, trained, width_of(trained, request.layer, device, precision.dtype))
    if any(settings != target.settings for settings in all_gather_object(mesh, target.settings)):
        raise UserError(  # a best.pt that a run wrote anew meanwhile, or an image that came into the folder
            f"{file} or {request.data} changed while the processes read it, or they compute in different precisions: "
            "their rows do not belong together. Run the same command again."
        )
    with ExitStack() as held:
        failure = prepared(target, held) if mesh.is_main_rank else None
        failure = broadcast_object(mesh, failure)
        if failure is not None:
            raise failure
        for number in range(mesh.rank, target.num_parts, mesh.world_size):
            if not target.part_file(number).exists():
                batches = images.part(number, target.num_parts, trained, device, precision.dtype)
                target.write(number, batches, trained)
        mesh.barrier()
        return target.finish(trained.labels) if mesh.is_main_rank else []


def width_of(trained: Trained, layer: str, device: torch.device, dtype: torch.dtype) -> int:
    """Numbers that the layer gives for one image."""
    size = trained.checkpoint.architecture().image_size
    return layer_output(trained.predictor, torch.zeros(1, 3, size, size, device=device, dtype=dtype), layer).shape[1]


def prepared(target: Target, held: ExitStack) -> UserError | None:
    """Lock and reserve the array's place; the error where that cannot be, so that all processes can end with it."""
    try:
        target.refuse_what_is_there()
        held.enter_context(target.locked())
        target.prepare()
    except UserError as error:
        return error
    except OSError as error:
        return target.unwritable(error)
    return None


class Target:
    """The array in the making: `.FILE.npy.partial`, and the finished parts' rows in `.FILE.npy.parts/`."""

    def __init__(self, request: Request, images: Images, trained: Trained, width: int) -> None:
        self.request, self.images = request, images
        self.shape = (images.num_images, width)
        self.num_parts = -(-images.num_images // PART_IMAGES)
        out = request.out
        self.array = atomic.partial_name(out)
        self.parts = out.with_name(f".{out.name}.parts")
        self.table = out.with_suffix(".tsv")
        digest = hashlib.sha256()
        for name, tensor in sorted(trained.checkpoint.model.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        self.settings = {
            "images": images.fingerprint,
            "network": digest.hexdigest(),
            "layer": request.layer,
            "dtype": request.dtype,
            "precision": name_of(next(iter(trained.predictor.weights.values())).dtype),
            "shape": list(self.shape),
        }

    def part_file(self, number: int) -> Path:
        return self.parts / f"{number:06d}.json"

    def refuse_what_is_there(self) -> None:
        """UsageError where the array or the table exists."""
        for path in (self.request.out, self.table):
            if path.exists():
                raise UsageError(f"{path} is there already: remove it, or choose another --out.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second command away from the unfinished array.  Raises InUseError."""
        self.parts.mkdir(parents=True, exist_ok=True)
        with locked(self.parts / LOCK):
            yield

    def prepare(self) -> None:
        """Reserve all bytes on the disk now: that it is full is found before hours of work."""
        self.refuse_what_is_there()  # another command may have finished it until a moment ago
        noted = self.parts / "settings.json"
        if noted.exists() and self.array.exists():
            if json.loads(noted.read_text(encoding="utf-8")) != self.settings:
                raise UsageError(
                    f"{self.parts} was begun with another network, layer, dtype or precision, or with other images: "
                    "remove it to begin anew, or choose another --out."
                )
            return
        for path in self.parts.iterdir():
            if path.name != LOCK:
                path.unlink()
        try:
            array = np.lib.format.open_memmap(
                self.array, mode="w+", dtype=np.dtype(self.request.dtype), shape=self.shape
            )
            del array
            with self.array.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.array.stat().st_size)
        except OSError:
            self.remove()
            raise
        atomic.write_text(noted, to_json(self.settings))

    def remove(self) -> None:
        """Remove everything that was begun."""
        shutil.rmtree(self.parts, ignore_errors=True)
        with suppress(OSError):
            self.array.unlink(missing_ok=True)

    def write(
        self, number: int, batches: Iterator[tuple[list[Row], torch.Tensor, list[int]]], trained: Trained
    ) -> None:
        """Compute a part's rows, flush them to the disk, then note that they are there.

        Not by a memory map: where machines share a disk over the network, each writes whole pages of it, and over the
        rows of another part in the first and the last page.
        """
        done: list[Row] = []
        with ExitStack() as stack:
            with self.saying_what_is_wrong():
                file = stack.enter_context(self.open_part(number))
            for rows, images, good in batches:
                values = np.full((len(rows), self.shape[1]), np.nan, dtype=self.request.dtype)
                if good:
                    output = layer_output(trained.predictor, images, self.request.layer)
                    values[good] = output.to(getattr(torch, self.request.dtype)).cpu().numpy()
                    if not np.isfinite(values[good]).all():
                        raise UserError(
                            f"{self.request.layer} has values that {values.dtype} cannot hold, from {rows[0].sample} "
                            "on: give --dtype float32 and another --out."
                        )
                with self.saying_what_is_wrong():
                    file.write(values.tobytes())
                done += rows
            with self.saying_what_is_wrong():
                file.flush()
                os.fsync(file.fileno())
                atomic.write_text(self.part_file(number), to_json([asdict(row) for row in done]))

    def open_part(self, number: int) -> IO[bytes]:
        """The unfinished array, to write the rows of a part."""
        file = os.fdopen(os.open(self.array, os.O_WRONLY), "wb")  # not for reading: pages would be fetched, to be whole
        start = part_of_rank(self.shape[0], number, self.num_parts).start
        file.seek((start - self.shape[0]) * self.shape[1] * np.dtype(self.request.dtype).itemsize, os.SEEK_END)
        return file

    @contextmanager
    def saying_what_is_wrong(self) -> Iterator[None]:
        """An error of the disk becomes a UserError."""
        try:
            yield
        except OSError as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: OSError) -> UserError:
        """What to do where the disk takes no more, or nothing at all."""
        remedy = "Make room" if error.errno in FULL else "Choose another --out, or give yourself the right to write"
        size = np.dtype(self.request.dtype).itemsize * self.shape[0] * self.shape[1]
        return UserError(
            f"{self.request.out}: cannot be written ({error.strerror}); it takes {human_bytes(size)}. {remedy}; the "
            "same command continues with the parts that are done."
        )

    def finish(self, labels: Sequence[str]) -> list[Row]:
        """Put table and array under their names; the rows with a problem."""
        problems: list[Row] = []
        try:
            with atomic.writing(self.table) as file:
                file.write(b"row\tsample\tlabel\tclass\tproblem\n")
                for place, row in enumerate(self.rows()):
                    name = "" if row.label is None else escaped(labels[row.label])
                    label = "" if row.label is None else row.label
                    line = f"{place}\t{escaped(row.sample)}\t{label}\t{name}\t{escaped(row.problem)}\n"
                    file.write(line.encode())
                    problems += [row] if row.problem else []
            atomic.rename(self.array, self.request.out)
        except OSError as error:
            raise self.unwritable(error) from error
        shutil.rmtree(self.parts, ignore_errors=True)
        return problems

    def rows(self) -> Iterator[Row]:
        """All rows in order, as the parts noted them."""
        for number in range(self.num_parts):
            content: list[Mapping[str, Any]] = json.loads(self.part_file(number).read_text(encoding="utf-8"))
            yield from (Row(**row) for row in content)
