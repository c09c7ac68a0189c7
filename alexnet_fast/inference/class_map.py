"""Evaluation on a part of a network's classes, or on data whose classes are called otherwise: `eval --classes`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_fast.inference.evaluation import TOP, EvaluationResult, credit
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted, did_you_mean, few
from alexnet_fast.tools.storage.filesystem import open_file

MATCH = "match"
"""What `--classes` calls the classes that data and network have in common, by name."""
QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class ClassMap:
    """Which of the network's classes is right for each class of the data."""

    targets: tuple[int, ...]
    """By the data's class index: the network's class index; -1 where images of the class are skipped."""

    @property
    def among(self) -> list[int]:
        """The network's classes that are asked for, ascending."""
        return sorted({target for target in self.targets if target >= 0})

    def batches(self, batches: Iterable[EvaluationBatch]) -> Iterator[EvaluationBatch]:
        """The images that are not skipped, with the network's labels."""
        found = False
        for batch in batches:
            labels = torch.tensor(self.targets, device=batch.labels.device)[batch.labels]
            kept = labels >= 0
            if bool(kept.any()):
                found = True
                yield EvaluationBatch(cut_some(batch, kept), labels[kept], batch.indices.to(kept.device)[kept])
        if not found:
            raise UsageError("the split has no image of the classes that --classes asks for")


def cut_some(batch: EvaluationBatch, kept: torch.Tensor) -> Callable[[int], torch.Tensor]:
    """Views of a part of the batch's images."""
    return lambda number: batch.cut_view(number)[kept]


def read_class_map(given: str, data: Sequence[str], network: Sequence[str]) -> ClassMap:
    """The map that `--classes` gives: `match`, or a file of lines DATA_CLASS or DATA_CLASS<tab or comma>NETWORK_CLASS.

    data, network: the classes' names by index.  NETWORK_CLASS is a name, or an index where no class of the network is
    called by a number; without it the name is the same.  Images of classes that are not listed are skipped.  Raises
    UsageError for names that are not known.
    """
    index = {name: number for number, name in enumerate(network)}
    if given == MATCH:
        targets = tuple(index.get(name, -1) for name in data)
        if max(targets, default=-1) < 0:
            raise UsageError(
                f"--classes {MATCH}: the data's classes ({few(list(data))}) are none of the network's "
                f"({few(list(network))}): give a file that says which is which."
            )
        return ClassMap(targets)
    places, chosen = {name: number for number, name in enumerate(data)}, [-1] * len(data)
    for number, (name, *rest) in read_lines(Path(given)):
        where = f"--classes {given}, line {number}"
        place = find_class(name, places)
        if place is None:
            raise UsageError(f"{where}: the data has no class {name.strip()!r}; {did_you_mean(name, places)}")
        if len(rest) > 1:
            raise UsageError(f"{where} has {1 + len(rest)} columns: give the data's class and the network's")
        target = rest[0] if rest else name
        found = find_class(target, index)
        if found is None:
            found = find_index(target, network, where)
        if found is None:
            raise UsageError(f"{where}: the network has no class {target.strip()!r}; {did_you_mean(target, index)}")
        if chosen[place] >= 0:
            raise UsageError(f"{where}: {data[place]!r} is listed twice")
        chosen[place] = found
    if max(chosen, default=-1) < 0:
        raise UsageError(f"--classes {given}: lists no class; give one in a line, or {MATCH}")
    return ClassMap(tuple(chosen))


def find_class(word: str, index: Mapping[str, int]) -> int | None:
    """The class of this name, else of the name without the spaces around it; None: there is none."""
    return index.get(word, index.get(word.strip()))


def find_index(word: str, network: Sequence[str], where: str) -> int | None:
    """The class that a number means; None where it is none.

    UsageError where the network's own names are numbers: 1 would be the name of one class and the index of another.
    """
    word = word.strip()
    if not (word.isdecimal() and int(word) < len(network)):
        return None
    numbers = [name for name in network if name.isdecimal()]
    if numbers:
        raise UsageError(
            f"{where}: the network has no class {word!r}, and its classes are called by numbers themselves "
            f"({few(numbers)}), so that an index could be taken for a name: give names"
        )
    return int(word)


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """(number of the line, its columns) of every line that is not empty; split at tabs, or where there are none at
    commas.  A column in quotation marks may hold what it likes, as spreadsheets write it.
    """
    try:
        with open_file(file) as opened:
            text = opened.read().decode("utf-8-sig")  # Windows begins a text with a byte order mark
    except FileNotFoundError as error:
        raise UsageError(f"--classes {file}: there is no such file; give one, or {MATCH}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes {file}: cannot be read as a text in UTF-8 ({error}).") from error
    delimiter = "\t" if "\t" in QUOTED.sub("", text) else ","
    rows, found, number = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [], 1
    for row in rows:
        if any(column.strip() for column in row):
            found.append((number, row))
        number = rows.line_num + 1
    return found


class ClassTally:
    """Errors by class, with guesses among some of the network's classes only."""

    def __init__(self, num_classes: int, among: Sequence[int] | None = None) -> None:
        """`among`: the network's classes that may be guessed, ascending; None: all."""
        self.among = list(range(num_classes)) if among is None else list(among)
        self._position = torch.full((num_classes,), -1)
        self._position[self.among] = torch.arange(len(self.among))
        self._sums = torch.zeros(len(self.among), 4, dtype=torch.float64)
        """By class: images, losses, first guesses that were right, right classes among the first five."""

    def observe(self, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """A batch's (N, classes) probabilities and (N,) labels, all of them among the classes."""
        chosen = probabilities.cpu()[:, self.among]
        total = chosen.sum(1, keepdim=True)
        # A network sure of another class may leave exactly 0 for all of these: then it has no opinion among them.
        chosen = chosen / torch.where(total == 0, 1, total)
        places = self._position[labels.cpu()]
        of_label = chosen.gather(1, places[:, None])
        losses = -of_label[:, 0].double().clamp_min(1e-30).log()
        right = [credit(chosen, of_label, number) for number in (1, TOP)]
        self._sums.index_add_(0, places, torch.stack([torch.ones_like(losses), losses, *right], dim=1))

    def result(self, precision: str) -> EvaluationResult:
        """Over all images."""
        samples, loss, top1, top5 = self._sums.sum(0).tolist()
        top5_error = None if len(self.among) <= TOP else 1 - top5 / samples
        return EvaluationResult(int(samples), loss / samples, 1 - top1 / samples, top5_error, precision)

    def write_csv(self, file: Path, classes: Sequence[tuple[str, str]]) -> None:
        """A line for each class that had images; `classes`: (name, label) by the network's index.  UserError."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["index", "class", "label", "images", "loss", "top1_error", "top5_error"])
        for index, (images, loss, top1, top5) in zip(self.among, self._sums.tolist(), strict=True):
            if images:
                errors = [f"{1 - top1 / images:.6g}", "" if len(self.among) <= TOP else f"{1 - top5 / images:.6g}"]
                writer.writerow([index, *classes[index], int(images), f"{loss / images:.6g}", *errors])
        try:
            atomic.write_text(file, stream.getvalue())
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror}). Choose another place.") from error

    def describe(self) -> str:
        """among 200 of 1,000 classes"""
        total = len(self._position)
        return f"among {len(self.among):,} of {counted(total, 'class', 'classes')}"
