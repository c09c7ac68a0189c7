"""What a run is and what it reached, as rows of tables."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from alexnet_fast.config.recipe import Recipe, counted_epochs, load_recipe, recipe_names, rounded_epochs
from alexnet_fast.config.recipe_values import toml_value
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.report.published import published_for, why_not_comparable
from alexnet_fast.report.subject import Subject
from alexnet_fast.runs.describe import state_of as state_in_words
from alexnet_fast.runs.evaluations import Way, last_evaluations, split_of
from alexnet_fast.runs.resume import ONLY_WORDS
from alexnet_fast.tools.messages import counted, duration


@dataclass(frozen=True)
class ResultRow:
    """One line of the result table."""

    what: str
    top1_error: float | None
    top5_error: float | None
    remark: str = ""
    own: bool = True
    """Whether it is this run's."""


def summary_of(subject: Subject) -> str:
    """The network and what it was trained on, in half a sentence."""
    text = f"Net {subject.recipe.network}, recipe {subject.recipe.name}"
    if subject.trained is not None:
        text += f", {counted(len(subject.trained.checkpoint.classes), 'class', 'classes')}"
    if subject.dataset is not None:
        text += f", {counted(sum(split.samples for split in subject.dataset.splits.values()), 'image')}"
    return f"{text}."


def state_of(subject: Subject) -> str:
    """Running, done or stopped, in a sentence."""
    if subject.folder is None:
        assert subject.trained is not None
        checkpoint = subject.trained.checkpoint
        return f"A checkpoint after {counted_epochs(checkpoint.step / checkpoint.steps_per_epoch)}."
    return state_in_words(subject.folder, subject.recipe, subject.metrics)


def result_rows(subject: Subject) -> list[ResultRow]:
    """The run's errors, then the published ones with a remark where they cannot be compared."""
    rows = []
    if subject.result is not None:
        val_split = subject.recipe.val_split
        for way, found in reversed(last_evaluations(subject.result, val_split, subject.recipe.final_split)):
            rows.append(ResultRow(f"this run, {way}", found["top1_error"], found["top5_error"]))
        if subject.result.get("best_top1_error") is not None:
            best = f"this run, best epoch, {Way(1, val_split)}"
            rows.append(ResultRow(best, subject.result["best_top1_error"], None))
    else:
        validations = [line for line in subject.metrics if line["kind"] == "val"]
        if validations:
            last = validations[-1]
            way = Way(10 if last["views"] == 10 else 1, split_of(last))
            what = f"this run after epoch {rounded_epochs(last['epoch'])}, {way}"
            rows.append(ResultRow(what, last["top1_error"], last["top5_error"], "not its end"))
    classes = () if subject.trained is None else subject.trained.checkpoint.classes
    remark = why_not_comparable(subject.dataset, classes, subject.recipe) if classes else ""
    rows += [
        ResultRow(item.where, item.top1_error, item.top5_error, remark, own=False)
        for item in published_for(subject.recipe.network)
    ]
    return rows


@dataclass(frozen=True)
class Facts:
    """What is needed to repeat the run."""

    command: str
    """"": unknown."""
    rows: list[tuple[str, str]]
    recipe: str
    """As TOML, every key with its explanation."""
    versions: list[tuple[str, str]]
    versions_of: str
    """Which program's they are."""


def facts_of(subject: Subject) -> Facts:
    """Command, costs, data set, versions."""
    checkpoint = None if subject.trained is None else subject.trained.checkpoint
    result = subject.result or {}
    rows: list[tuple[str, str]] = [("network", f"net {subject.recipe.network}")]
    if checkpoint is not None:
        parameters = sum(tensor.numel() for tensor in checkpoint.model.values())
        rows += [
            ("parameters", f"{parameters / 1e6:,.2f} million"),
            ("classes", f"{len(checkpoint.classes):,}"),
            ("steps", f"{checkpoint.step:,}, {counted_epochs(checkpoint.step / checkpoint.steps_per_epoch)}"),
            ("data set fingerprint", checkpoint.dataset_fingerprint),
        ]
    if subject.dataset is not None:
        splits = ", ".join(f"{split.samples:,} {name}" for name, split in subject.dataset.splits.items())
        rows.append(("images", splits))
        if checkpoint is not None and subject.dataset.fingerprint != checkpoint.dataset_fingerprint:
            rows.append(("images shown here", f"of another data set: {subject.dataset.fingerprint}"))
    if result.get("images_per_s") is not None:
        rows += [
            ("throughput", f"{result['images_per_s']:,.0f} img/s, {result['data_wait']:.1%} waiting for data"),
            ("time", duration(result["seconds"])),
        ]
    if result.get("energy_kwh") is not None:
        rows.append(("energy", f"{result['energy_kwh']:.2f} kWh (GPUs)"))
    for key in ("device", "precision", "processes"):
        if key in result:
            rows.append((key, str(result[key])))
    if checkpoint is not None:
        rows.append(("began", checkpoint.totals.started))
    machine: dict[str, str] = result.get("machine") or describe_machine()
    of = "the run" if result.get("machine") else "this report"
    return Facts(command_of(subject), rows, subject.recipe.to_toml(), list(machine.items()), of)


def command_of(subject: Subject) -> str:
    """The `train` command that makes this run, on one line; "" for a checkpoint from elsewhere."""
    session = subject.session
    if session is None or subject.folder is None:
        return ""
    words = ["alexnet-fast", "train", session["data"], *recipe_options(subject.recipe)]
    words += ["--out", str(subject.path), *(session["options"] or [])]
    text = " ".join(shlex.quote(word) for word in words)
    if session["options"] is None:
        text = f"torchrun … -m {text.replace('alexnet-fast train', 'alexnet_fast train', 1)}"
    return os.fsencode(text).decode(errors="backslashreplace")


def recipe_options(recipe: Recipe) -> list[str]:
    """`--recipe` and `--set` that give this recipe: from the program's recipe of its name, else from the default."""
    name = recipe.name if recipe.name in recipe_names() else "2013"
    words = ["--recipe", name]
    base: dict[str, Any] = asdict(load_recipe(name))
    for key, value in asdict(recipe).items():
        if value != base[key] and key not in ONLY_WORDS:
            plain = "none" if value is None else value if isinstance(value, str) else toml_value(value)
            words += ["--set", f"{key}={plain}"]
    return words
