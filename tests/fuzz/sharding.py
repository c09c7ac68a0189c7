"""Shard random sources in this process and compare splits, labels, class order, counts and pixels with the truth.

`python -m tests.fuzz.sharding --trees 1000 --seed 0` prints what differs, with the seed that makes the tree again.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions, ShardTask
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sharding.worker import make_shard
from alexnet_fast.tools.sources.find import Source, find_source, read_bytes
from alexnet_fast.tools.sources.unpack import unpack
from alexnet_fast.tools.storage.output import open_output
from tests.fuzz.trees import LAYOUTS, SIZE, Maker, Truth, sort_key


class InlinePool:
    """Works in this process."""

    num_workers = 1

    def submit(self, task: ShardTask) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(make_shard(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def counts(self) -> None:
        return None


@contextmanager
def inline_pool() -> Iterator[InlinePool]:
    yield InlinePool()


def check_tree(seed: int, folder: Path) -> list[str]:
    """Make a tree, shard it and compare; what differs, in sentences."""
    maker = Maker(folder / "in", seed)
    (folder / "in").mkdir(parents=True)
    layout = maker.random.choice(LAYOUTS)
    layout(maker)
    maker.spoil()
    truth = maker.write()
    root = folder / "in"
    labels = [str(root / name) for name in truth.options.get("labels", ())]
    try:
        source = find_source(root / truth.options.get("path", ""), labels=labels)
        plan = Plan(source, ShardOptions(ImageOptions(size=SIZE), shard_size=9))
        outcome = shard(plan, open_output(folder / "out"), inline_pool, strict=False, watch=lambda progress: None)
    except UserError as error:
        message = str(error)
        if truth.refused or no_split_left(truth, message):
            return []
        return [f"{layout.__name__}: refused: {message}"]
    if truth.refused:
        return [f"{layout.__name__}: not refused, though it holds {truth.refused}"]
    problems = [
        *compare_counts(truth, outcome.dataset),
        *compare_samples(truth, source, folder / "out", outcome.dataset),
    ]
    return [f"{layout.__name__}: {problem}" for problem in problems]


def no_split_left(truth: Truth, message: str) -> bool:
    """Whether a refusal is right because every image of a split is damaged, or because one class only is left."""
    splits = {split for split, _ in truth.images.values()}
    whole = {split for content, (split, _) in truth.images.items() if content not in truth.damaged}
    return "can be used" in message and splits != whole


def compare_counts(truth: Truth, dataset: Dataset) -> list[str]:
    problems = []
    counts = dataset.accounting()
    found, skipped = len(truth.images) + truth.unused, len(truth.damaged) + truth.unused
    expected = {"found": found, "written": found - skipped, "skipped": skipped}
    if counts != expected:
        problems.append(f"counts {counts}, expected {expected}; unused {dataset.unused}; skipped {dataset.skipped}")
    names = [entry.name for entry in dataset.classes]
    known = truth.classes or sort_key(sorted({name for _, name in truth.images.values()}))
    if names != known:
        problems.append(f"classes {names}, expected {known}")
    return problems


def compare_samples(truth: Truth, source: Source, out: Path, dataset: Dataset) -> list[str]:
    """Split, class and pixels of every sample, led back to its source's bytes."""
    output = open_output(out.parent / "again")
    output.prepare()
    unpack(source.table, output)
    origin = {source.table.stem(i): read_bytes(source.table.location(i)) for i in range(len(source.table))}
    problems, seen = [], Counter[bytes]()
    for split in dataset.splits:
        for file in dataset.tars(split):
            with tarfile.open(file) as archive:
                parts = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
            for name in [name for name in parts if name.endswith(".jpg")]:
                content = origin[name[:-4]]
                seen[content] += 1
                label = dataset.classes[int(parts[name[:-4] + ".cls"])].name
                if truth.images.get(content) != (split, label):
                    problems.append(f"{name} is {split}/{label}, expected {truth.images.get(content)}")
                stored = np.asarray(Image.open(io.BytesIO(parts[name])).convert("RGB"), dtype=float)
                if content in truth.pixels and np.abs(stored - truth.pixels[content]).mean() > 12:
                    problems.append(f"the pixels of {name} are others")
    if any(count > 1 for count in seen.values()) or set(seen) != set(truth.images) - truth.damaged:
        problems.append(f"{len(seen)} images written, expected {len(truth.images) - len(truth.damaged)}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first tree")
    words = parser.parse_args()
    bad = 0
    for seed in range(words.seed, words.seed + words.trees):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            problems = check_tree(seed, folder)
        finally:
            shutil.rmtree(folder)
        bad += bool(problems)
        for problem in problems:
            print(f"seed {seed}: {problem[:600]}")
    print(f"{words.trees:,} trees, {bad:,} with differences")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
