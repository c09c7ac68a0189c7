"""What is compressed in the source becomes plain in the output's work folder, where the workers read here and there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.messages import counted
from alexnet_fast.tools.sources.packed import unpacked
from alexnet_fast.tools.sources.table import ImageTable
from alexnet_fast.tools.sources.tar_index import state_of
from alexnet_fast.tools.storage.filesystem import join
from alexnet_fast.tools.storage.output import Output
from alexnet_fast.tools.storage.work_names import WORK


def unpacked_name(path: str) -> str:
    """What a compressed file becomes in the work folder; another where the file has changed."""
    digest = hashlib.sha256(f"{path}\0{state_of(path)}".encode("utf-8", "surrogateescape")).hexdigest()
    return f"source-unpacked-{digest[:16]}"


def unpack(table: ImageTable, output: Output) -> None:
    """Unpack what the table's images are in, where a run before has not; UserError where there is no room."""
    missing = [
        container for container in sorted(table.packed) if output.size(f"{WORK}/{table.packed[container]}") is None
    ]
    needed, free = sum(map(table.packed_bytes, missing)), output.free_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"{output}: {counted(len(missing), 'compressed file')} of the source will take {needed / 1e9:,.1f} GB "
            f"while the shards are made, and {free / 1e9:,.1f} GB are free. Make room, or give --out a larger disk."
        )
    for container in missing:
        path = join(table.root, table.containers[container])
        with output.create(f"{WORK}/{table.packed[container]}") as file:
            for chunk in chunks(path):
                file.write(chunk)
    table.unpacked_in = f"{output}/{WORK}"


def chunks(path: str) -> Iterator[bytes]:
    if path.lower().endswith(".parquet"):
        from alexnet_fast.tools.sources.parquet import unpacked_parquet

        return unpacked_parquet(path)
    return unpacked(path)
