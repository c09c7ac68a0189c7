"""What a benchmark returns: one row for each thing measured; printed as a table and written as JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

GAP = "  "
"""Between two columns of a table."""


def finish(device: torch.device) -> None:
    """Synchronize torch's current stream, and not what DALI decodes ahead."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@dataclass(frozen=True)
class Measurement:
    """One row of a benchmark."""

    name: str
    rate: float
    """img/s: the median of the repetitions."""
    spread: float = 0.0
    """Half the range of the repetitions' rates, as a fraction of `rate`; 0 where there was only one."""
    details: Mapping[str, str | float | int] = field(default_factory=dict)
    """More columns, such as "batch size", "ms", "GB", "of the limit"."""


def measure_rate(images: int, work: Callable[[], object], *, repetitions: int = 3) -> tuple[float, float]:
    """(median img/s, half range as a fraction of it) of `work`, which handles `images` images a call.

    `work` must have finished when it returns (on a GPU: synchronize in it), and must be warmed up.
    """
    rates = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        rates.append(images / (time.perf_counter() - start))
    median = statistics.median(rates)
    return median, (max(rates) - min(rates)) / 2 / median


def table(rows: Sequence[Measurement], columns: int | None = None) -> str:
    """The rows as text: name, img/s, spread, then the details, a column for each key that occurs.

    columns: of the terminal; details that do not fit follow in further tables below, under the same names.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.details))
    lines = [["", "img/s", "±", *keys]]
    for row in rows:
        spread = f"{row.spread:.0%}" if row.spread else ""
        lines.append([row.name, f"{row.rate:,.0f}", spread, *(show(row.details.get(key, "")) for key in keys)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n\n".join(part_of_table(lines, widths, part) for part in parts_that_fit(widths, columns))


def parts_that_fit(widths: Sequence[int], columns: int | None) -> list[list[int]]:
    """Numbers of the columns of each table, the names' (0) in all; at least one beside it."""
    parts = [[0]]
    for number, width in list(enumerate(widths))[1:]:
        used = sum(widths[one] + len(GAP) for one in parts[-1])
        if columns is not None and len(parts[-1]) > 1 and used + width > columns:
            parts.append([0])
        parts[-1].append(number)
    return parts


def part_of_table(lines: Sequence[Sequence[str]], widths: Sequence[int], part: Sequence[int]) -> str:
    """Some of the columns; rows that have nothing in them are omitted from all tables but the first."""
    shown = [line for line in lines if part[1] == 1 or any(line[number] for number in part[1:])]
    return "\n".join(
        GAP.join(
            line[number].ljust(widths[number]) if number == 0 else line[number].rjust(widths[number]) for number in part
        ).rstrip()
        for line in shown
    )


def show(value: str | float | int) -> str:
    """A detail as people read it: three significant digits, no exponents below a million."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
