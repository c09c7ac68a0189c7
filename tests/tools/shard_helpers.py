"""A sharding run as a test makes it."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import Outcome, shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import Output, open_output


def run(
    source: Path, out: Path | Output, *, workers: int = 1, strict: bool = False, pool: Any = None, **options: Any
) -> Outcome:
    found = find_source(
        str(source),
        None,
        val_fraction=options.get("val_fraction"),
        seed=options.get("seed", 0),
        exclude=None,
        cache=None,
    )
    plan = Plan(found, ShardOptions(**({"shard_size": 10} | options)))
    output = open_output(out) if isinstance(out, Path) else out
    return shard(plan, output, pool or partial(local_pool, workers), strict=strict, watch=lambda progress: None)


def digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
