"""Labels in a table beside the images: `metadata.csv`, `labels.csv`, JSON lines, or a text of two columns."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.foreign import is_image
from alexnet_fast.tools.sources.sample_labels import (
    NAME_FIELDS,
    NUMBER_FIELDS,
    WNID,
    Label,
    LabelError,
    label_of,
    merged,
)
from alexnet_fast.tools.sources.splits import said
from alexnet_fast.tools.storage.filesystem import absolute, is_url, join, read_file

FILE_COLUMNS = (
    *("file_name", "filename", "file", "filepath", "file_path", "path", "image", "image_name", "image_path", "img"),
    *("image_id", "imageid", "img_path", "img_name", "fname", "name", "id"),
)
LABEL_COLUMNS = (*NUMBER_FIELDS, "labels", "class_idx", "classid", "label_id", "y", "predictionstring")
NAME_COLUMNS = (*NAME_FIELDS, "breed", "species", "classname", "labelname")
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "data set")

_IMAGE_AND_LABEL = re.compile(r"(.+\.[A-Za-z0-9]{3,4})\s+(\S.*)")
_WNID_AND_BOXES = re.compile(rf"({WNID.pattern})(\s+[\d.]+)+(\s.*)?")


@dataclass
class Row:
    """What a table says of one image."""

    label: Label
    split: str | None
    used: int = 0
    """Images that the row is of."""


@dataclass
class LabelFile:
    """One table."""

    path: str
    folder: tuple[str, ...] | None
    """The folder that its names are relative to, below the source; None where the table lies outside the source."""
    rows: dict[str, Row] = field(default_factory=dict)

    def row(self, image: tuple[str, ...]) -> Row | None:
        """The row of an image (its path below the source): by its path, the end of its path, or its name."""
        parts = image
        if self.folder:
            if image[: len(self.folder)] != self.folder:
                return None
            parts = image[len(self.folder) :]
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            found = self.rows.get(name) or self.rows.get(name[: name.rfind(".")] if "." in parts[-1] else name)
            if found:
                return found
        return None


class LabelFiles:
    """All tables of a source."""

    def __init__(self, root: str, paths: Sequence[str], found: Sequence[str] = ()) -> None:
        """paths: those that the user gave.  found: those below the source whose name says that they hold labels."""
        self.files = [read_labels(root, path) for path in paths]
        self.files += [read_labels(root, join(root, path)) for path in found]

    def __bool__(self) -> bool:
        return bool(self.files)

    def row(self, image: tuple[str, ...]) -> Row | None:
        """What the tables say of an image; UsageError where one row fits two images."""
        for file in self.files:
            row = file.row(image)
            if row is not None:
                row.used += 1
                if row.used > 1:
                    raise UsageError(
                        f"{file.path}: its row for {image[-1]!r} fits several images, such as {'/'.join(image)}. Write "
                        "the images' paths relative to SOURCE into it."
                    )
                return row
        return None

    def warnings(self) -> list[str]:
        found = []
        for file in self.files:
            missing = [name for name, row in file.rows.items() if not row.used]
            if missing:
                rows = counted(len(missing), "row")
                found.append(f"{file.path} has {rows} whose image is not there ({few(missing)}).")
        return found


def read_labels(root: str, path: str) -> LabelFile:
    """Read a table; UsageError where it is none, or where it has two labels for one image."""
    place = path if is_url(path) else absolute(path)
    inside = place.startswith(root.rstrip("/") + "/")
    folder = PurePosixPath(place[len(root.rstrip("/")) + 1 :]).parent.parts if inside else None
    file = LabelFile(path, folder)
    content = read_file(place).decode("utf-8-sig", "surrogateescape")
    for number, (name, label, split) in enumerate(parse_table(path, content), 1):
        key = name.replace("\\", "/").removeprefix("./").strip("/")
        known = file.rows.setdefault(key, Row(label, split))
        if (known.label, known.split) != (label, split):
            raise UsageError(f"{path}: says two things of {name!r} (the second in row {number:,}). Correct the table.")
    if not file.rows:
        raise UsageError(f"{path}: holds no labels. Give a table with an image's file name and its label in a row.")
    return file


def parse_table(path: str, content: str) -> Iterator[tuple[str, Label, str | None]]:
    """(file name, label, split or None) of every row."""
    if path.lower().endswith((".jsonl", ".ndjson")):
        rows: Iterator[dict[str, Any]] = parse_json_lines(path, content)
    else:
        rows = parse_columns(path, content)
    for number, row in enumerate(rows, 1):
        yield str(row["file"]), row_label(f"{path}: row {number:,}, {row['file']!r}", row), row_split(row)


def row_label(what: str, row: dict[str, Any]) -> Label:
    """A row's label; UsageError, beginning with `what`, where it is none."""
    values = [wnid_alone(value) for value in row["labels"]]
    try:
        return functools.reduce(merged, map(label_of, values), Label())
    except LabelError as error:
        raise UsageError(f"{what}: {error}. Correct or remove it.") from error


def wnid_alone(value: Any) -> Any:
    """The wnid of a cell such as Kaggle's `n01978287 85 1 499 272`, which has boxes behind it; else the cell."""
    matched = _WNID_AND_BOXES.fullmatch(value.strip()) if isinstance(value, str) else None
    return matched[1] if matched else value


def row_split(row: dict[str, Any]) -> str | None:
    what = said(str(row["split"] or "").encode())
    return what.split if what else None


def chosen_columns(path: str, names: Sequence[str]) -> tuple[str, list[str], str | None]:
    """The columns of the file, of the labels (a number's and a name's) and of the split."""
    lower = {name.strip().lower(): name for name in names}
    file = next((lower[name] for name in FILE_COLUMNS if name in lower), None)
    label = next((lower[name] for name in LABEL_COLUMNS if name in lower), None)
    name = next((lower[name] for name in NAME_COLUMNS if name in lower), None)
    split = next((lower[name] for name in SPLIT_COLUMNS if name in lower), None)
    labels = [column for column in (label, name) if column is not None]
    rest = [name for name in names if name not in (file, split)]
    if not labels and len(rest) == 1:
        labels = rest
    if file is None or not labels:
        raise UsageError(
            f"{path}: has the columns {few(list(names))}; none is known to be the "
            f"{'label' if file else 'file name'}'s. Call them file_name and label."
        )
    return file, labels, split


def parse_json_lines(path: str, content: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: line {number:,} is no JSON ({error}). Correct it.") from error
        if not isinstance(fields, dict):
            raise UsageError(f"{path}: line {number:,} is no JSON object. Correct it.")
        file, labels, split = chosen_columns(path, list(fields))
        yield {"file": fields[file], "labels": [fields[name] for name in labels], "split": split and fields[split]}


def parse_columns(path: str, content: str) -> Iterator[dict[str, Any]]:
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith("#")]
    delimiter = next((mark for mark in "\t,;" if lines and mark in lines[0]), None)
    if delimiter is None:
        for line in lines:
            matched = _IMAGE_AND_LABEL.fullmatch(line.strip())
            words = list(matched.groups()) if matched else line.split(None, 1)
            if len(words) != 2:
                raise UsageError(f"{path}: the line {line[:80]!r} is no file name with a label. Correct or remove it.")
            yield {"file": words[0], "labels": words[1:], "split": None}
        return
    table = list(csv.reader(lines, delimiter=delimiter))
    header = table[0]
    first = [row[0] for row in table[1:]]
    known = {name.strip().lower() for name in header} & {*FILE_COLUMNS}
    if known and not is_image(header[0].encode("utf-8", "surrogateescape")):
        file, labels, split = chosen_columns(path, header)
        places = [header.index(name) for name in (file, *labels)]
        for row in table[1:]:
            check_length(path, row, max(places) + 1)
            cells = [row[place] for place in places]
            where = header.index(split) if split is not None else len(row)
            yield {"file": cells[0], "labels": cells[1:], "split": row[where] if where < len(row) else None}
        return
    images = any(is_image(name.encode("utf-8", "surrogateescape")) for name in first)
    headed = images and not is_image(header[0].encode("utf-8", "surrogateescape"))
    if headed and len(header) > 2:
        chosen_columns(path, header)
    for row in table[headed:]:
        check_length(path, row, 2)
        yield {"file": row[0], "labels": row[1:2], "split": None}


def check_length(path: str, row: list[str], least: int) -> None:
    if len(row) < least:
        raise UsageError(
            f"{path}: the row {','.join(row)[:80]!r} has {counted(len(row), 'column')}. Correct or remove it."
        )
