"""Making one shard: what a worker process does, on this machine or another."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import IO

import numpy as np
from PIL import Image

from alexnet_fast.tools.dataset import Note, Shard
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.acceleration import use_loops_for
from alexnet_fast.tools.sharding.image import BadImageError, Encoded, encode
from alexnet_fast.tools.sharding.plan import PlannedImage, ShardTask
from alexnet_fast.tools.sharding.statistics import PixelSums
from alexnet_fast.tools.sharding.tar_writer import ShardWriter
from alexnet_fast.tools.sources.table import read_bytes
from alexnet_fast.tools.storage.output import Output
from alexnet_fast.tools.storage.work_names import WORK

RECORD = ".done"
"""End of the name of a finished shard's record."""

Count = Callable[[int, int], None]
"""Called with (images, source bytes) done since the last call."""

COUNT_EVERY = 8
"""Images between two calls of it."""


class StrictError(UserError):
    """An image cannot be used, and --strict was given."""


class _NothingUsableError(Exception):
    """Every image of the shard was skipped."""


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard.  Written after tar and index, it is what makes the shard count as done."""

    shard: Shard
    found: int
    """Images planned for it: samples + skipped."""
    source_bytes: int
    """Read for it."""
    repaired: tuple[Note, ...]
    skipped: tuple[Note, ...]


def make_shard(task: ShardTask, count: Count | None = None) -> ShardRecord:
    """Write the shard's tar, index and record, in this order.

    A shard whose images were all skipped has a record only.  Raises StrictError, or UserError where a source file
    has vanished or the output cannot be written.
    """
    use_loops_for(len(task.images))
    work = _ShardWork(task, count)
    try:
        with task.output.create(task.name) as file:
            writer = work.write_samples(file)
        shard = Shard(task.name, writer.samples, writer.num_bytes, writer.sha256, _sha256(writer.index()))
        with task.output.create(shard.index_name) as file:
            file.write(writer.index())
    except _NothingUsableError:
        shard = Shard(task.name, 0, 0, "", "")
    record = ShardRecord(shard, len(task.images), work.source_bytes, tuple(work.repaired), tuple(work.skipped))
    write_record(task.output, record, work.sums)
    return record


class _ShardWork:
    """What comes together while a shard is made."""

    def __init__(self, task: ShardTask, count: Count | None) -> None:
        self.task = task
        self.count = count
        self.repaired: list[Note] = []
        self.skipped: list[Note] = []
        self.source_bytes = 0
        self.sums = PixelSums(task.options.size) if task.keep_sums else None

    def write_samples(self, file: IO[bytes]) -> ShardWriter:
        writer = ShardWriter(file)
        counted_bytes = 0
        for number, image in enumerate(self.task.images, 1):
            self._write_sample(image, writer)
            if self.count and (number % COUNT_EVERY == 0 or number == len(self.task.images)):
                self.count((number - 1) % COUNT_EVERY + 1, self.source_bytes - counted_bytes)
                counted_bytes = self.source_bytes
        if writer.samples == 0:
            raise _NothingUsableError
        writer.close()
        return writer

    def _write_sample(self, image: PlannedImage, writer: ShardWriter) -> None:
        content = read_bytes(image.location)
        self.source_bytes += len(content)
        try:
            copied = as_stored(content, self.task.options.size) if self.task.stored else None
            encoded = copied or encode(content, image.origin, self.task.options)
        except BadImageError as error:
            if self.task.strict:
                raise StrictError(
                    f"{image.origin}: {error}. --strict stops at the first image that cannot be used; repair or "
                    "remove it, or run the same command without --strict to skip such images."
                ) from error
            self.skipped.append(Note(image.origin, str(error)))
            return
        if encoded.repairs:
            self.repaired.append(Note(image.origin, encoded.repairs))
        if self.sums:
            self.sums.add(encoded.pixels)
        writer.add(image.stem, encoded.jpeg, image.label)


def as_stored(content: bytes, size: int) -> Encoded | None:
    """A JPEG out of shards that were made with the same options, as it is; None where it is none of the right kind."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.size != (size, size) or image.mode != "RGB":
                return None
            pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, 3)
    except Exception:  # whatever Pillow's decoder raises; the encoder gives the reason
        return None
    return Encoded(content, pixels, "")


def record_name(tar: str) -> str:
    """Where a shard's record lies in the output."""
    return f"{WORK}/{tar.removesuffix('.tar')}{RECORD}"


def write_record(output: Output, record: ShardRecord, sums: PixelSums | None) -> None:
    """A line of JSON, then the pixel sums as uint32, where the shard counts for the statistics."""
    content = asdict(record)
    state = sums.state() if sums else None
    content["sums"] = state and {
        "images": state["images"],
        "products": state["products"],
        "shape": state["pixel_sums"].shape,
    }
    with output.create(record_name(record.shard.name)) as file:
        file.write(json.dumps(content).encode("ascii") + b"\n")
        if state:
            # 2^32 / 255 images would overflow: sixteen million in one shard.
            file.write(state["pixel_sums"].astype("<u4").tobytes())


def read_record(output: Output, tar: str) -> tuple[ShardRecord, PixelSums | None] | None:
    """A shard's record; None where there is none, or one that a power cut damaged: the shard is made again then."""
    stored = output.read(record_name(tar))
    try:
        return parse_record(stored) if stored is not None else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def parse_record(stored: bytes) -> tuple[ShardRecord, PixelSums | None]:
    """What `write_record` wrote; ValueError, KeyError, TypeError or RecursionError where it is something else."""
    line, _, rest = stored.partition(b"\n")
    content = json.loads(line)
    sums = None
    if content["sums"]:
        pixel_sums = np.frombuffer(rest, dtype="<u4").reshape(content["sums"]["shape"])
        sums = PixelSums.from_state(content["sums"]["images"], content["sums"]["products"], pixel_sums)
    record = ShardRecord(
        shard=Shard(**content["shard"]),
        found=content["found"],
        source_bytes=content["source_bytes"],
        repaired=tuple(Note(**note) for note in content["repaired"]),
        skipped=tuple(Note(**note) for note in content["skipped"]),
    )
    return record, sums


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
