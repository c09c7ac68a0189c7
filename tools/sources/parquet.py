"""Image sets in parquet files, as Hugging Face publishes them: an image's bytes, and its label, in every row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.classes import ClassList, LabelCounts, make_classes
from alexnet_fast.tools.sources.image_folders import Accounts
from alexnet_fast.tools.sources.packed import open_raw
from alexnet_fast.tools.sources.sample_labels import NUMBER_FIELDS, UNLABELED, Label, LabelError, label_of
from alexnet_fast.tools.sources.table import SPLIT_ORDER, Source, TableBuilder
from alexnet_fast.tools.sources.webdataset import splits_of_tars
from alexnet_fast.tools.storage.filesystem import join

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "picture", "pixel_values", "image_bytes", "bytes")
LABEL_COLUMNS = (*NUMBER_FIELDS, "labels", "class_name", "label_name")
BATCH = 64
"""Rows read at a time: images are large."""


@dataclass
class ParquetFile:
    """One file: its columns, and what its metadata says of them."""

    path: str
    image: str
    label: str | None
    names: list[str] = field(default_factory=list)
    """Class names in order, as Hugging Face's metadata has them; empty where there are none."""


def open_parquet(path: str) -> Any:
    """UsageError where pyarrow is not installed, UserError where the file is damaged."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f"{path}: reading parquet needs pyarrow. Install it: pip install 'alexnet-fast[parquet]'."
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(open_raw(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path}: is damaged or no parquet file ({error}). Get it again, or move it out of the source.")


def read_schema(path: str) -> ParquetFile:
    """Which column holds the images and which the labels; UsageError where that is not clear."""
    schema = open_parquet(path).schema_arrow
    names = list(schema.names)
    image = next((name for name in IMAGE_COLUMNS if name in names and holds_bytes(schema.field(name).type)), None)
    image = image or next((name for name in names if holds_bytes(schema.field(name).type, struct=True)), None)
    if image is None:
        raise UsageError(
            f"{path}: has the columns {few(names)}; none holds images' bytes. Give parquet files with an "
            "`image` column of {bytes, path}, as Hugging Face's datasets write them."
        )
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    others = [name for name in names if name.endswith(("label", "class"))]
    if label is None and len(others) > 1:
        raise UsageError(
            f"{path}: has several columns of labels ({few(others)}). Rename the one that counts to `label`."
        )
    label = label or next(iter(others), None)
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    described = features.get("info", {}).get("features", {}).get(label, {}) if isinstance(features, dict) else {}
    return ParquetFile(path, image, label, list(described.get("names") or []))


def holds_bytes(kind: Any, struct: bool = False) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return not struct and bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def rows(path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file in order; UserError where it is damaged."""
    import pyarrow

    opened = open_parquet(path)
    try:
        for batch in opened.iter_batches(batch_size=BATCH, columns=list(columns)):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def image_bytes(value: Any) -> bytes | None:
    """A row's image; None where the file holds none, or only the path of another file."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content or None


def unpacked_parquet(path: str) -> Iterator[bytes]:
    """The images one behind the other, in the order of the rows."""
    file = read_schema(path)
    return (content for row in rows(path, [file.image]) if (content := image_bytes(row[file.image])))


def label_of_row(file: ParquetFile, row: dict[str, Any], number: int) -> Label:
    if file.label is None:
        return UNLABELED
    try:
        label = label_of(row[file.label])
    except LabelError as error:
        raise UsageError(f"{file.path}: row {number:,}: {error}. Correct the file.") from error
    if not file.names or label.number is None:
        return label
    if label.number >= len(file.names):
        raise UsageError(f"{file.path}: row {number:,} has the label {label.number}, of {len(file.names):,} names.")
    return Label(label.number, file.names[label.number])


def find_parquet(
    root: str,
    files: Sequence[str],
    packed: Mapping[int, str],
    accounts: Accounts,
    splits: Sequence[str] = (),
    class_list: ClassList | None = None,
) -> Source:
    """The source that these files (paths below the root) are; UsageError where it has no labels."""
    builder, counts = TableBuilder(root, files), LabelCounts()
    split_of = splits_of_tars(root, files, splits, accounts)
    names: list[str] = []
    for split in SPLIT_ORDER:
        for container, name in enumerate(files):
            if split_of.get(name) != split:
                continue
            file = read_schema(join(root, name))
            names = names or file.names
            add_file(builder, counts, file, split, (container, name), accounts)
    if not len(builder):
        raise UsageError(
            f"{root}: no image with a label in {counted(len(files), 'parquet file')}. Give files with both."
        )
    made = make_classes(root, counts, class_list, names=names)
    table = builder.finish()
    table.label = made.index[table.label]
    present = sorted(set(table.split.tolist()))
    table.split = np.searchsorted(present, table.split).astype(np.uint8)
    table.packed = dict(packed)
    return Source(
        "parquet",
        f"{counted(len(files), 'parquet file')} in {root}",
        made.classes,
        tuple(SPLIT_ORDER[number] for number in present),
        table,
        tuple(made.notes),
        warnings=tuple(made.warnings),
        label_source="the label column" + (", with its class names" if names else ""),
    )


def add_file(
    builder: TableBuilder,
    counts: LabelCounts,
    file: ParquetFile,
    split: str,
    place: tuple[int, str],
    accounts: Accounts,
) -> None:
    container, name = place
    offset = unlabeled = without = 0
    columns = [file.image] + ([file.label] if file.label else [])
    for number, row in enumerate(rows(file.path, columns)):
        content = image_bytes(row[file.image])
        if content is None:
            without += 1
            continue
        label = label_of_row(file, row, number)
        if label == UNLABELED:
            unlabeled += 1
        else:
            path = row[file.image].get("path") if isinstance(row[file.image], dict) else None
            member = (path or f"{number:08d}.jpg").encode("utf-8", "surrogateescape")
            builder.add_member(
                SPLIT_ORDER.index(split), counts.add(label, split), container, member, offset, len(content)
            )
        offset += len(content)
    accounts.add(name, unlabeled, "images without a label")
    accounts.add(name, without, "rows without an image's bytes (only a path, or nothing)")
