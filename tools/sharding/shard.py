"""Sharding: plan → workers → atomic tars → dataset.json; what is done is never done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass

from alexnet_fast.tools.dataset import MANIFEST, MEAN_IMAGE, ONLY_A_COPY, Dataset, Shard
from alexnet_fast.tools.describe import human_bytes
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sharding.finalize import finish
from alexnet_fast.tools.sharding.image import BadImageError, encode
from alexnet_fast.tools.sharding.plan import Plan, PlannedShard, differences, identity_json
from alexnet_fast.tools.sharding.process_pool import LostWorkerError, Pool
from alexnet_fast.tools.sharding.repair import damaged_files, repair_files, statistics_shards
from alexnet_fast.tools.sharding.tar_writer import BLOCK
from alexnet_fast.tools.sharding.worker import RECORD, ShardRecord, read_record
from alexnet_fast.tools.sources.table import read_bytes
from alexnet_fast.tools.sources.unpack import unpack
from alexnet_fast.tools.storage.output import Output
from alexnet_fast.tools.storage.work_names import WORK

IDENTITY = f"{WORK}/identity.json"
"""What the run that began the output was asked for."""

POLL = 0.2
"""Seconds between two looks at the workers' counts."""

SPACE_SAMPLES = 48
"""Images that the space check encodes."""


@dataclass
class Progress:
    """How far a run is."""

    num_images: int
    num_shards: int
    resumed_images: int = 0
    """Found done when the run began."""
    images: int = 0
    """Done in all, resumed ones included."""
    source_bytes: int = 0
    """Read by this run."""
    shards: int = 0
    repaired: int = 0
    skipped: int = 0


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    dataset: Dataset
    made_shards: int
    """Shards that this run made."""
    repaired_files: tuple[str, ...] = ()
    """Files beside the shards that were missing or damaged, and that this run wrote again."""


def shard(
    plan: Plan, output: Output, pool: Callable[[], AbstractContextManager[Pool]], *, strict: bool, watch: Watch
) -> Outcome:
    """Make what is missing of the plan's shards, and the manifest.

    pool: gives the workers; called only where there is something to do.  Raises UsageError where the output holds
    something else, UserError where the work cannot continue; run again, it resumes.
    """
    refuse_others(plan, output)  # before the lock, which writes
    with output.lock():
        refuse_others(plan, output)
        output.prepare()
        if output.size(MANIFEST) is not None:
            return _mend(plan, output, pool, watch)
        if plan.source.scans:
            plan.source.scans.save()
        progress = Progress(len(plan.source.table), len(plan.shards))
        pending = []
        for planned in plan.shards:
            record = _done(planned, output)
            if record:
                _add(progress, record)
                progress.resumed_images += record.found
            else:
                pending.append(planned)
        progress.images = progress.resumed_images
        if pending:
            unpack(plan.source.table, output)
        check_space(plan, pending, output)
        with output.create(IDENTITY) as file:  # from here on other options are refused
            file.write(identity_json(plan.identity))
        watch(progress)
        if pending:
            _make(plan, pending, output, pool, strict, progress, watch)
        dataset = finish(plan, output)
        output.remove(WORK)
        return Outcome(dataset, len(pending))


def refuse_foreign(output: Output) -> None:
    """UsageError where the output is neither empty nor a run's of this program.  Writes nothing."""
    others = [name for name in output.names() if name != WORK]
    # In this order: another run that ends meanwhile writes the manifest before it removes the identity.
    if not others or output.size(IDENTITY) is not None or output.size(MANIFEST) is not None:
        return
    if any(name.endswith(".idx") for name in others):
        raise UsageError(f"{output}: holds shards whose {MANIFEST} is lost. {ONLY_A_COPY}")
    raise UsageError(
        f"{output}: is not empty and no shards folder of ours (it holds {few(others)}). Give --out a new or an empty "
        "folder."
    )


def refuse_others(plan: Plan, output: Output) -> None:
    """UsageError where the output was made from another source or with other options."""
    refuse_foreign(output)
    begun = _is_begun(output)
    stored = output.read(IDENTITY)  # before the look for the manifest, as above
    if output.size(MANIFEST) is not None:
        before = _identity_of(_finished(output))
    elif begun:
        before = _parsed_identity(stored, output)
    else:
        return
    found = differences(before, plan.identity)
    if found:
        raise UsageError(
            f"{output}: was made with other input or options: {found}. Use the same again, or give another --out."
        )


def _is_begun(output: Output) -> bool:
    """Whether anything was made that fits one identity only."""
    return output.names() not in ([], [WORK]) or any(name.endswith(RECORD) for name in output.names(WORK))


def _parsed_identity(stored: bytes | None, output: Output) -> dict[str, object]:
    """What the run that began the output was asked for; UserError where nobody can read it any more."""
    try:
        before = json.loads(stored or b"")
    except (ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise UserError(
            f"{output}/{IDENTITY}: is missing or damaged, so that nobody knows what the shards there are made of. "
            f"Remove {output} and run again, or give another --out."
        )
    return before


def _finished(output: Output) -> Dataset:
    """What a finished output's manifest says."""
    manifest = output.read(MANIFEST)
    assert manifest is not None
    return Dataset.parse(manifest, str(output))


def _identity_of(dataset: Dataset) -> dict[str, object]:
    """The identity that the plan of a finished output had."""
    return {
        "source": dataset.source,
        "fingerprint": dataset.source_fingerprint,
        "images": sum(split.found for split in dataset.splits.values()),
        "encoder": dataset.program.partition(", ")[2],
        **vars(dataset.image_options),
        "seed": dataset.seed,
        "shard_size": dataset.shard_size,
        "val_fraction": dataset.val_fraction,
    }


def _done(planned: PlannedShard, output: Output) -> ShardRecord | None:
    """The record of a shard whose files are all there; else None."""
    stored = read_record(output, planned.name)
    if stored is None or (stored[0].shard.samples and _is_lost(stored[0].shard, output)):
        return None
    return stored[0]


def _is_lost(shard: Shard, output: Output) -> bool:
    """Whether a tar is missing or has another size, or its index is not what was written.

    Tars of the right size are taken on trust: reading them all again is `verify`'s work.
    """
    index = output.read(shard.index_name) or b""
    return output.size(shard.name) != shard.bytes or hashlib.sha256(index).hexdigest() != shard.index_sha256


def _add(progress: Progress, record: ShardRecord) -> None:
    progress.shards += 1
    progress.repaired += len(record.repaired)
    progress.skipped += len(record.skipped)


def _make(
    plan: Plan,
    pending: list[PlannedShard],
    output: Output,
    pool: Callable[[], AbstractContextManager[Pool]],
    strict: bool,
    progress: Progress,
    watch: Watch,
) -> list[ShardRecord]:
    """Have the workers make the pending shards.  Few are under way at a time, so that few tasks are in memory."""
    records = []
    finished_images = finished_bytes = 0
    try:
        with pool() as workers:
            queue = iter(pending)
            running: set[Future[ShardRecord]] = set()
            while True:
                while len(running) < workers.num_workers + 1 and (planned := next(queue, None)) is not None:
                    running.add(workers.submit(plan.task(planned, output, strict)))
                if not running:
                    break
                done, running = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    record = future.result()
                    records.append(record)
                    finished_images += record.found
                    finished_bytes += record.source_bytes
                    _add(progress, record)
                images, num_bytes = workers.counts() or (finished_images, finished_bytes)
                progress.images, progress.source_bytes = progress.resumed_images + images, num_bytes
                watch(progress)
    except (LostWorkerError, BrokenProcessPool) as error:
        raise UserError(
            "A worker process was killed, perhaps by the system for want of memory. "
            f"{progress.shards:,} of {counted(progress.num_shards, 'shard')} done: run the same command again to go "
            "on, with fewer --workers if memory is short."
        ) from error
    return records


def _mend(plan: Plan, output: Output, pool: Callable[[], AbstractContextManager[Pool]], watch: Watch) -> Outcome:
    """A finished output: make what is lost or damaged again, which must come out as it was."""
    dataset = _finished(output)
    known = {shard.name: shard for split in dataset.splits.values() for shard in split.shards}
    files = damaged_files(dataset, output)
    without_record = _without_record(statistics_shards(plan, dataset), known, output) if MEAN_IMAGE in files else set()
    lost = [
        planned
        for planned in plan.shards
        if planned.name in known and (planned.name in without_record or _is_lost(known[planned.name], output))
    ]
    if lost:
        unpack(plan.source.table, output)
        progress = Progress(sum(len(planned.numbers) for planned in lost), len(lost))
        for record in _make(plan, lost, output, pool, False, progress, watch):
            if record.shard != known[record.shard.name]:
                raise UserError(
                    f"{output}/{record.shard.name}: was lost and made again, but came out different: the source's "
                    "images have changed. Shard into a new --out."
                )
    repair_files(plan, dataset, files, output)
    output.remove(WORK)
    return Outcome(dataset, len(lost), tuple(files))


def _without_record(shards: list[PlannedShard], known: dict[str, Shard], output: Output) -> set[str]:
    """Names of finished shards that must be made again for the mean image.

    It is of the images as they were before the JPEG encoder, so that all of them are needed; a record of an earlier
    mending that was interrupted will do.
    """
    records = ((planned.name, read_record(output, planned.name)) for planned in shards)
    return {name for name, stored in records if stored is None or stored[0].shard != known[name]}


def check_space(plan: Plan, pending: list[PlannedShard], output: Output) -> None:
    """UserError where the pending shards will not fit, going by a sample of their images."""
    free = output.free_bytes()
    if free is None or not pending:
        return
    numbers = [number for planned in pending for number in planned.numbers[:: max(1, len(pending) // 4)].tolist()]
    numbers = numbers[:: -(-len(numbers) // SPACE_SAMPLES)]
    total = 0
    for number in numbers:
        image = plan.image(number)
        try:
            total += len(encode(read_bytes(image.location), image.origin, plan.options.image_options).jpeg)
        except BadImageError:
            continue
        total += 3 * BLOCK + BLOCK // 2  # two headers, the label, half a block of padding
    num_images = sum(len(planned.numbers) for planned in pending)
    needed = total / len(numbers) * num_images
    # Records hold four bytes a pixel sum, until the end.
    needed += sum(
        4 * 3 * plan.options.image_options.size**2 for planned in pending if planned.split == plan.statistics_split
    )
    if needed > free:
        raise UserError(
            f"{output}: {counted(num_images, 'image')} will take about {human_bytes(round(needed))}, and "
            f"{human_bytes(free)} are free. Make room, or give --out a larger disk."
        )
