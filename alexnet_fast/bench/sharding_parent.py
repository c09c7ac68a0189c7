"""Memory of sharding's parent process with a plan of ImageNet's size, without its images; `sharding` runs it."""

from __future__ import annotations

import resource
import time
from array import array
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast.tools.dataset import Note, Shard
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions, ShardTask
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sharding.statistics import PixelSums
from alexnet_fast.tools.sharding.tar_writer import index_bytes
from alexnet_fast.tools.sharding.worker import ShardRecord, write_record
from alexnet_fast.tools.sources import contents as source_contents
from alexnet_fast.tools.sources.find import Source, find_source
from alexnet_fast.tools.sources.tree import Tree
from alexnet_fast.tools.storage.output import LocalOutput


class NoPool:
    """A pool that encodes nothing: every shard is done at once, so that only the parent's own work is left."""

    num_workers = 2

    def __init__(self) -> None:
        self._sums = PixelSums(256)
        self._sums.add(np.zeros((256, 256, 3), np.uint8))

    def submit(self, task: ShardTask) -> Future[ShardRecord]:
        notes = tuple(Note(image.origin, "truncated") for image in task.images[:2])
        count = len(task.images)
        with task.output.create(task.name.replace(".tar", ".idx")) as file:
            file.write(index_bytes([f"cls 0 5 {image.stem}.cls" for image in task.images[2:]]))
        record = ShardRecord(Shard(task.name, count - 2, 40_000 * count, "0" * 64, "0" * 64), count, 0, notes, notes)
        write_record(task.output, record, self._sums if task.keep_sums else None)
        done: Future[ShardRecord] = Future()
        done.set_result(record)
        return done

    def counts(self) -> None:
        return None

    def stop(self) -> None:
        return None


class Roomy(LocalOutput):
    """A folder whose free space nobody asks for: the images are not there to be sampled."""

    def free_bytes(self) -> None:
        return None


def parent_memory(folder: Path) -> tuple[float, float]:
    """(peak MB of this process, seconds) for a plan and manifest of ImageNet's size, from the listing on."""
    names = [b"n%08d" % number for number in range(1000)]
    tree = Tree(folders={b"train", *(b"train/" + name for name in names)})
    for number, name in enumerate(names):
        files = [b"%s_%d.JPEG" % (name, 10 * i) for i in range(1281 + (number < 167))]
        tree.images[b"train/" + name] = files
        tree.sizes[b"train/" + name] = array("q", range(len(files)))
    trees = [tree]  # given away, not kept
    del tree
    setattr(source_contents, "read_tree", lambda *_: trees.pop())  # noqa: B010 (mypy knows the name as another module's)
    begun = time.perf_counter()
    found: Source = find_source(str(folder), "folders", val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(found, ShardOptions())

    @contextmanager
    def pool() -> Any:
        yield NoPool()

    shard(plan, Roomy(folder / "out"), pool, strict=False, watch=lambda progress: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - begun
