"""Is every byte of a shards folder still what the manifest says, and does the manifest agree with itself?"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_fast.tools.dataset import MANIFEST, ONLY_A_COPY, Dataset, Shard, manifest_checksum
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import command, counted, few
from alexnet_fast.tools.sharding.jpeg import decode_strictly
from alexnet_fast.tools.sharding.process_pool import LostWorkerError, local_pool
from alexnet_fast.tools.sharding.tar_writer import BrokenShardError, index_bytes, read_samples
from alexnet_fast.tools.storage.filesystem import join, local_copy
from alexnet_fast.tools.storage.output import open_output

MOST_PROBLEMS = 5
"""Problems of one kind that are reported for a shard."""

UNREADABLE = "cannot be read"
"""Beginning of a problem that is perhaps not one of the bytes."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""

    file: str
    """Name in the shards folder."""
    what: str


@dataclass
class ShardCheck:
    """What was found in one shard."""

    shard: Shard
    problems: list[Problem] = field(default_factory=list)
    stems: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Hashes of its samples' stems, in order, to find doubled samples between shards."""
    num_bytes: int = 0
    """Read."""


Watch = Callable[[ShardCheck], None]


def verify(dataset: Dataset, *, decode: bool, num_workers: int, watch: Watch) -> list[Problem]:
    """Check every file of a shards folder; `decode`: every image too.  Returns what is wrong, in the files' order.

    watch: called after each shard.
    """
    problems = [*_check_manifest(dataset), *_check_files(dataset)]
    shards = [shard for split in dataset.splits.values() for shard in split.shards]
    checks: dict[str, ShardCheck] = {}
    size = dataset.image_options.size if decode else None
    try:
        with local_pool(num_workers) as pool:
            running: set[Future[ShardCheck]] = {
                pool.call(check_shard, dataset.place, shard, len(dataset.classes), size) for shard in shards
            }
            while running:
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    check = future.result()
                    checks[check.shard.name] = check
                    watch(check)
    except (LostWorkerError, BrokenProcessPool) as error:
        raise UserError(
            "A worker process was killed, perhaps by the system for want of memory. Run the same command again, "
            "with fewer --workers if memory is short."
        ) from error
    ordered = [checks[shard.name] for shard in shards]
    for check in ordered:
        problems += check.problems
    return problems + _doubled_between_shards(dataset.place, ordered)


def advice(dataset: Dataset, problems: list[Problem]) -> str:
    """What to do about them, for people."""
    shards = {shard.name for split in dataset.splits.values() for shard in split.shards}
    files = {problem.file for problem in problems}
    foreign = {name for name in files - shards if name.endswith(".tar")}
    closed = {problem.file for problem in problems if problem.what.startswith(UNREADABLE)}
    again = f"run the same {command('shard', '…', '--out', dataset.place)} again"
    steps = []
    if MANIFEST in files:
        steps.append(f"{MANIFEST}: {ONLY_A_COPY}")
    if foreign:
        steps.append(f"Move away what is not in {MANIFEST}: {few(sorted(foreign))}.")
    if closed:
        steps.append(f"Fix what keeps {few(sorted(closed))} from being read, or move it away and {again}.")
    damaged = files - foreign - closed - {MANIFEST}
    if damaged:
        steps.append(
            f"Remove the .tar of each damaged shard and {again}: it makes anew what is missing, and repairs indexes "
            "and the files beside them."
            if damaged & shards
            else f"{again[0].upper()}{again[1:]}: it repairs indexes and the files beside the shards."
        )
    return " ".join(steps)


def _check_manifest(dataset: Dataset) -> Iterator[Problem]:
    content = json.loads(open_output(dataset.place).read(MANIFEST) or b"{}")
    if content.get("checksum") != manifest_checksum(content):
        yield Problem(MANIFEST, "was changed since it was written")
    counts = dataset.accounting()
    if counts["found"] != counts["written"] + counts["skipped"]:
        yield Problem(
            MANIFEST,
            f"says that {counts['found']:,} images were found, and accounts for "
            f"{counts['written']:,} + {counts['skipped']:,}",
        )
    for split in dataset.splits.values():
        samples = sum(shard.samples for shard in split.shards)
        if split.samples != samples:
            yield Problem(
                MANIFEST, f"says that {split.name} has {counted(split.samples, 'sample')}, its shards {samples:,}"
            )


def _check_files(dataset: Dataset) -> Iterator[Problem]:
    """The files that are no shards, and files that should not be there."""
    for name, sha256 in dataset.file_hashes.items():
        what = _wrong_file(join(dataset.place, name), sha256)
        if what:
            yield Problem(name, what)
    known = {shard.name for split in dataset.splits.values() for shard in split.shards}
    for name in open_output(dataset.place).names():
        if name.endswith(".tar") and name not in known:
            yield Problem(name, f"is not in {MANIFEST}, but programs that read *.tar would read it")


def _wrong_file(file: str, sha256: str) -> str | None:
    """What is wrong with a file that should have this hash; None where nothing is."""
    try:
        with local_copy(file) as local:
            if local is None:
                return "is missing"
            return None if _file_sha256(local) == sha256 else "is not what was written (sha256 differs)"
    except OSError as error:
        return f"{UNREADABLE} ({error.strerror})"


def check_shard(place: str, shard: Shard, num_classes: int, size: int | None) -> ShardCheck:
    """Check a tar and its index; size: decode every image and look that it is RGB of that many pixels a side."""
    check = ShardCheck(shard)
    try:
        with local_copy(join(place, shard.name)) as tar:
            if tar is None:
                check.problems.append(Problem(shard.name, "is missing"))
                return check
            check.num_bytes = tar.stat().st_size
            if check.num_bytes != shard.bytes:
                check.problems.append(
                    Problem(shard.name, f"has {counted(check.num_bytes, 'byte')}, not {shard.bytes:,}")
                )
            elif _file_sha256(tar) != shard.sha256:
                check.problems.append(Problem(shard.name, "is not what was written (sha256 differs)"))
            lines = _check_samples(check, tar, num_classes, size)
    except OSError as error:
        check.problems.append(Problem(shard.name, f"{UNREADABLE} ({error.strerror})"))
        return check
    try:
        with local_copy(join(place, shard.index_name)) as index:
            _check_index(check, index, lines)
    except OSError as error:
        check.problems.append(Problem(shard.index_name, f"{UNREADABLE} ({error.strerror})"))
    return check


def _check_samples(check: ShardCheck, tar: Path, num_classes: int, size: int | None) -> list[str] | None:
    """Walk the tar; returns what its index should say, None where the walk did not come to the end."""
    lines: list[str] = []
    hashes: list[int] = []
    seen: set[str] = set()
    name = check.shard.name
    found: list[Problem] = []
    broken = False
    with tar.open("rb") as file:
        try:
            for sample in read_samples(file):
                lines.append(sample.index_line)
                if sample.stem in seen:
                    found.append(Problem(name, f"sample {sample.stem} comes twice"))
                seen.add(sample.stem)
                hashes.append(_stem_hash(sample.stem))
                if sample.label >= num_classes:
                    found.append(
                        Problem(name, f"sample {sample.stem} has label {sample.label}, of {num_classes} classes")
                    )
                if size is not None and (reason := _undecodable(sample.jpeg, size)):
                    found.append(Problem(name, f"image {sample.stem}.jpg {reason}"))
        except BrokenShardError as error:
            found.append(Problem(name, str(error)))
            broken = True
    check.problems += found[:MOST_PROBLEMS]
    if len(found) > MOST_PROBLEMS:
        check.problems.append(Problem(name, f"… and {len(found) - MOST_PROBLEMS:,} more"))
    check.stems = np.array(hashes, dtype=np.uint64)
    if broken:
        return None
    if len(lines) != check.shard.samples:
        check.problems.append(Problem(name, f"has {counted(len(lines), 'sample')}, not {check.shard.samples:,}"))
    return lines


def _undecodable(jpeg: bytes, size: int) -> str | None:
    """Why a stored image is not as it should be; None where it is."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            decode_strictly(jpeg, "RGB")
            if image.mode != "RGB" or image.size != (size, size) or image.info.get("progressive"):
                return f"is {image.mode} {image.width}×{image.height}, not a baseline RGB {size}×{size}"
    except Exception as error:  # whatever the decoders raise on damaged bytes
        return f"cannot be decoded ({error})"
    return None


def _check_index(check: ShardCheck, index: Path | None, lines: list[str] | None) -> None:
    name = check.shard.index_name
    if index is None:
        check.problems.append(Problem(name, "is missing"))
        return
    stored = index.read_bytes()
    if hashlib.sha256(stored).hexdigest() == check.shard.index_sha256 and lines is None:
        return
    if lines is not None and stored != index_bytes(lines):
        right = index_bytes(lines).splitlines()
        given = stored.splitlines()
        place = next((n for n, (a, b) in enumerate(zip(right, given, strict=False), 1) if a != b), None)
        where = f"line {place}" if place else f"{counted(len(given), 'line')} instead of {len(right):,}"
        check.problems.append(Problem(name, f"does not fit its tar ({where}), so that wrong bytes would be read"))
    elif hashlib.sha256(stored).hexdigest() != check.shard.index_sha256:
        check.problems.append(Problem(name, "is not what was written (sha256 differs)"))


def _doubled_between_shards(place: str, checks: list[ShardCheck]) -> list[Problem]:
    """Samples that two shards hold; the hashes only say where to look, the names decide."""
    if not checks:
        return []
    hashes = np.concatenate([check.stems for check in checks])
    owners = np.repeat(np.arange(len(checks)), [len(check.stems) for check in checks])
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated:
        return []
    first: dict[str, str] = {}
    problems = []
    for number in sorted({int(owner) for owner, value in zip(owners, hashes, strict=True) if int(value) in repeated}):
        name = checks[number].shard.name
        with local_copy(join(place, name)) as tar:
            stems = _stems_among(repeated, tar) if tar else []
        problems += [
            Problem(name, f"sample {stem} is in {first[stem]} too")
            for stem in stems
            if first.setdefault(stem, name) != name
        ]
    return problems


def _stems_among(hashes: set[int], tar: Path) -> list[str]:
    """The tar's stems with these hashes; none where it is broken, which is reported already."""
    with tar.open("rb") as file:
        try:
            return [sample.stem for sample in read_samples(file) if _stem_hash(sample.stem) in hashes]
        except BrokenShardError:
            return []


def _stem_hash(stem: str) -> int:
    return int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8).digest(), "little")


def _file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
