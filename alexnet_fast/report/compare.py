"""`compare`: several runs side by side, as text and as a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from alexnet_fast.config.recipe import Recipe, rounded_epochs
from alexnet_fast.config.recipe_values import toml_value
from alexnet_fast.report import charts
from alexnet_fast.report.page import number, percent, render, write_page
from alexnet_fast.runs.describe import state_of, trained_on
from alexnet_fast.runs.evaluations import VIEWS, Way, evaluations
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import ONLY_WORDS, recipe_of_run
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import duration
from alexnet_fast.tools.sharding.finalize import escaped


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    name: str
    """Its path, without the folders that all the runs have in common."""
    folder: RunFolder
    recipe: Recipe
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None

    def last_training(self) -> dict[str, Any] | None:
        """The last line of metrics.jsonl about training."""
        return next((line for line in reversed(self.metrics) if line["kind"] == "train"), None)

    @property
    def data(self) -> str:
        """The data set's fingerprint; "": not known yet."""
        return trained_on(self.folder)

    def images_per_s(self) -> float | None:
        """While training: of the whole run if it is done, else of what metrics.jsonl has of it."""
        if self.result is not None:
            rate: float | None = self.result.get("images_per_s")
            return rate
        steps, seconds, before = 0, 0.0, 0
        for line in self.metrics:
            if line["kind"] == "train" and line["images_per_s"]:
                steps += line["step"] - before
                seconds += (line["step"] - before) * self.recipe.batch_size / line["images_per_s"]
            before = line["step"]
        return steps * self.recipe.batch_size / seconds if seconds else None

    def seconds(self) -> float | None:
        """Of all sessions, evaluations included; up to the last line of metrics.jsonl where the run is not done."""
        if self.result is not None:
            return float(self.result["seconds"])
        if not self.metrics:
            return None
        ends = [line for line, after in pairwise(self.metrics) if after["kind"] == "session"]
        return sum(float(line.get("seconds", 0)) for line in [*ends, self.metrics[-1]])


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """UsageError where one is no run, or where there are fewer than two."""
    if len(paths) < 2:
        raise UsageError("give two runs or more to compare; `alexnet-fast report RUN` shows one")
    for path in paths:
        if not path.is_dir() or not RunFolder(path).holds_a_run():
            raise UsageError(f"{path}: there is no run there. Give runs' folders, such as runs/2013.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a run is given twice: give each once")
    folders = [RunFolder(path) for path in paths]
    return [
        Run(name, folder, recipe_of_run(folder), folder.read_metrics(), folder.read_result())
        for name, folder in zip(short_names(paths), folders, strict=True)
    ]


def short_names(paths: Sequence[Path]) -> list[str]:
    """runs/a and runs/b become a and b; demo/run and runs/demo stay: "run" and "demo" would be taken for each other."""
    whole = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  links keep the names that the user knows
    common = Path(os.path.commonpath([path.parent for path in whole]))
    return [str(path if common == Path(path.anchor) else path.relative_to(common)) for path in whole]


def recipe_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, each run's value) of the keys in which they differ."""
    recipes = [asdict(run.recipe) for run in runs]
    found = []
    for key in recipes[0]:
        values = [toml_value("none" if recipe[key] is None else recipe[key]) for recipe in recipes]
        if key not in ONLY_WORDS and len(set(values)) > 1:
            found.append((key, values))
    return found


def results(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(what, each run's value), as far as each run has come."""
    rows: list[tuple[str, list[str]]] = [("state", [state_of(run.folder, run.recipe, run.metrics) for run in runs])]
    evaluated = [evaluations(run.metrics) for run in runs]
    for way in sorted({way for found in evaluated for way in found}, key=lambda way: (-way.views, way.split != "val")):
        lines = [found[way][-1] if way in found else None for found in evaluated]
        for key, what in (("top1_error", "top-1 error"), ("top5_error", "top-5 error")):
            values = ["–" if line is None else percent(line[key]) for line in lines]
            if set(values) != {"–"}:
                rows.append((f"{what}, {way}", values))
    trains = [run.last_training() for run in runs]
    rows += [
        ("training loss", ["–" if line is None else number(line["loss"], ".3f") for line in trains]),
        ("epoch", ["–" if line is None else rounded_epochs(line["epoch"]) for line in trains]),
        ("img/s", [number(run.images_per_s(), ",.0f") for run in runs]),
        ("time", ["–" if (seconds := run.seconds()) is None else duration(seconds) for run in runs]),
    ]
    return rows


def doubt(runs: Sequence[Run]) -> str:
    """Why the results cannot be compared; "": nothing speaks against it."""
    if len({run.data for run in runs if run.data}) > 1:
        return "The runs were trained on different data sets: their errors cannot be compared."
    return ""


def as_text(runs: Sequence[Run], width: int) -> str:
    """For a terminal: a table if it fits into `width` columns, else a block for each run."""
    tables = [
        (title, rows) for title, rows in (("recipe", recipe_differences(runs)), ("result", results(runs))) if rows
    ]
    names = [escaped(run.name) for run in runs]
    lines = []
    for title, raw in tables:
        rows = [(escaped(what), [escaped(value) for value in values]) for what, values in raw]
        if not rows:
            continue
        first = max(len(title), *(len(what) for what, _ in rows))
        columns = [max(len(name), *(len(values[place]) for _, values in rows)) for place, name in enumerate(names)]
        if first + sum(size + 2 for size in columns) <= width:
            for what, values in [(title, names), *rows]:
                cells = "".join(f"  {value:>{size}}" for value, size in zip(values, columns, strict=True))
                lines.append(f"{what:{first}}{cells}")
        else:
            for place, name in enumerate(names):
                lines.append(f"{title} of {name}")
                lines += [f"  {what:{first}}  {values[place]}" for what, values in rows]
        lines.append("")
    return "\n".join([*lines[:-1], *(["", doubt(runs)] if doubt(runs) else [])])


def write_comparison(runs: Sequence[Run], file: Path) -> None:
    """The same as a page, with the curves in one figure each."""
    shown = {}
    for figure, kind, key, title, is_percent in (
        ("error", "val", "top1_error", "top-1 error, validation, center view", True),
        ("val_loss", "val", "loss", "cross-entropy, validation", False),
        ("train_error", "train", "error", "training error", True),
        ("loss", "train", "loss", "training loss", False),
        ("throughput", "train", "images_per_s", "img/s", False),
    ):
        series = []
        for run in runs:
            if kind == "val":
                way = Way(1, run.recipe.val_split)
                lines, name = evaluations(run.metrics).get(way, []), f"{run.name}{str(way).removeprefix(VIEWS[1])}"
            else:
                lines, name = [line for line in run.metrics if line["kind"] == kind], run.name
            series.append(charts.Series(name, [line["epoch"] for line in lines], [line[key] for line in lines]))
        spec = charts.curves(series, x_title="epoch", y_title=title, percent=is_percent)
        if spec is not None:
            shown[figure] = (title[0].upper() + title[1:], spec)
    values = {
        "title": f"{len(runs)} runs",
        "names": [run.name for run in runs],
        "differences": recipe_differences(runs),
        "results": results(runs),
        "doubt": doubt(runs),
        "charts": shown,
    }
    write_page(file, render("compare.html.j2", **values))
