"""A run that is evaluated on val after each epoch and on test at its end: the two are never taken for each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from alexnet_fast.commands.train_command import summary
from alexnet_fast.report.compare import read_runs, results, write_comparison
from alexnet_fast.report.facts import result_rows
from alexnet_fast.report.report import curve_charts
from alexnet_fast.report.subject import find_subject
from alexnet_fast.runs import figures
from alexnet_fast.runs.describe import describe_run
from alexnet_fast.runs.folder import RunFolder

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 10])
def views(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def tested(small_run: Path, tmp_path: Path, views: int) -> Path:
    """Top-1 error 25 % on val, 75 % on test."""
    run = tmp_path / "tested"
    shutil.copytree(small_run, run)
    recipe = (run / "recipe.toml").read_text().replace('final_split = "val"', 'final_split = "test"')
    (run / "recipe.toml").write_text(recipe)
    lines = [line for line in RunFolder(run).read_metrics() if line["kind"] != "val"]
    val = {"kind": "val", "step": lines[-1]["step"], "epoch": 1.0, "loss": 1.0, "top5_error": None, "views": 1}
    lines += [
        val | {"split": "val", "top1_error": 0.25},
        val | {"split": "test", "top1_error": 0.75, "views": views},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((run / "result.json").read_text())
    result.pop("1_views", None)
    result["recipe"]["final_split"] = result["final_split"] = "test"
    result["best_top1_error"] = 0.25
    result["center_view"]["top1_error"] = 0.25
    result[f"{views}_views"] = result["center_view"] | {"top1_error": 0.75}
    (run / "result.json").write_text(json.dumps(result))
    return run


def name_of(views: int) -> str:
    return "center view" if views == 1 else "ten views"


def test_info_names_the_split_of_each(tested: Path, views: int) -> None:
    table = describe_run(RunFolder(tested)).split("\n\n")[2].splitlines()
    assert [line.split()[-1] for line in table] == ["split", "val", "test"]


def test_a_result_shows_both(tested: Path, views: int) -> None:
    rows = {row.what: row.top1_error for row in result_rows(find_subject(tested, None, CPU)) if row.own}
    assert rows == {
        f"this run, {name_of(views)}, test split": 0.75,
        "this run, center view": 0.25,
        "this run, best epoch, center view": 0.25,
    }
    text = summary(json.loads((tested / "result.json").read_text()), tested)
    assert "Center view: 25.00% top-1" in text and f"{name_of(views).capitalize()}, test split: 75.00% top-1" in text


def test_an_unfinished_run_names_the_split_of_its_last(tested: Path, views: int) -> None:
    subject = replace(find_subject(tested, None, CPU), result=None)
    assert result_rows(subject)[0].what == f"this run after epoch 1, {name_of(views)}, test split"


def test_curves_do_not_go_on_to_another_split(
    tested: Path, views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = json.dumps(curve_charts(find_subject(tested, None, CPU))["error"])
    assert f'"test split, {name_of(views)}"' in layers
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, file: drawn.append(figure))
    figures.draw_curves(RunFolder(tested).read_metrics(), tmp_path / "curves.png")
    found = {line.get_label(): list(line.get_ydata()) for line in drawn[0].axes[0].lines}
    plt.close(drawn[0])
    assert found["validation, center view"] == [0.25] and found[f"test split, {name_of(views)}"] == [0.75]


def test_errors_of_different_splits_stand_in_different_rows(
    tested: Path, small_run: Path, views: int, tmp_path: Path
) -> None:
    runs = read_runs([tested, small_run])
    other = runs[1].metrics[-1]["top1_error"]
    rows = dict(results(runs))
    assert rows["top-1 error, center view"] == ["25.00%", f"{other:.2%}"]
    assert rows[f"top-1 error, {name_of(views)}, test split"] == ["75.00%", "–"]
    write_comparison(runs, tmp_path / "compare.html")
    assert '"y": 0.75' not in (tmp_path / "compare.html").read_text(encoding="utf-8")
