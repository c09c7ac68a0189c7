"""What stands beside the shards of a finished output, looked through and written again where it is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from alexnet_fast.tools.dataset import CARD, MANIFEST, MEAN_IMAGE, SOURCES, TIMM_INFO, Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.finalize import mean_image_file, source_lines, write_file
from alexnet_fast.tools.sharding.other_readers import dataset_card, timm_info
from alexnet_fast.tools.sharding.plan import Plan, PlannedShard
from alexnet_fast.tools.sharding.statistics import PixelSums
from alexnet_fast.tools.sharding.worker import read_record
from alexnet_fast.tools.storage.output import Output


def damaged_files(dataset: Dataset, output: Output) -> list[str]:
    """Names of those files that are missing or not what was written."""
    return [name for name, sha256 in dataset.file_hashes.items() if _digest([output.read(name) or b""]) != sha256]


def statistics_shards(plan: Plan, dataset: Dataset) -> list[PlannedShard]:
    """The shards whose records mean_image.npy is made of."""
    with_samples = {shard.name for shard in dataset.splits[plan.statistics_split].shards}
    return [planned for planned in plan.shards if planned.name in with_samples]


def repair_files(plan: Plan, dataset: Dataset, names: list[str], output: Output) -> None:
    """Write files beside the shards again; all shards must be whole, `statistics_shards` with their records.

    Raises UserError where a file comes out other than it was.
    """
    contents: dict[str, Callable[[], Iterable[bytes]]] = {
        MEAN_IMAGE: lambda: [mean_image_file(_pixel_sums(plan, dataset, output))],
        SOURCES: lambda: source_lines(plan, output),
        TIMM_INFO: lambda: [timm_info(dataset)],
    }
    for name in names:
        # Made twice: the table of sources is too large to be held.
        if _digest(contents[name]()) != dataset.file_hashes[name]:
            raise UserError(
                f"{output}/{name}: is missing or damaged, and comes out different when it is made again: {MANIFEST} or "
                "the source's images have changed. Bring it back from a copy, or shard into a new --out."
            )
        write_file(output, name, contents[name]())
    if output.size(CARD) is None:
        write_file(output, CARD, [dataset_card(dataset)])


def _pixel_sums(plan: Plan, dataset: Dataset, output: Output) -> PixelSums:
    sums = PixelSums(plan.options.image_options.size)
    for planned in statistics_shards(plan, dataset):
        stored = read_record(output, planned.name)
        if stored and stored[1]:
            sums.merge(stored[1])
    return sums


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
