"""Runs side by side, in a terminal of any width and as a page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_fast.commands.main import group
from alexnet_fast.report.compare import as_text, doubt, read_runs, short_names
from alexnet_fast.tools.errors import UsageError


@pytest.fixture
def runs(small_run: Path, hostile_run: Path) -> list[Path]:
    return [small_run, hostile_run]


def test_differences_and_results_stand_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "compare.html"
    outcome = CliRunner().invoke(group, ["compare", *map(str, runs), "--out", str(out)], env={"COLUMNS": "160"})
    assert outcome.exit_code == 0, outcome.output
    rows = {line.split("  ")[0]: line.split() for line in outcome.output.splitlines()}
    assert rows["batch_size"][1:] == ["8", "16"]
    assert "epochs" in rows and "width_divisor" not in rows and "name" not in rows
    text = out.read_text(encoding="utf-8")
    assert 'id="figure-error"' in text and "<script>document" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_fits_or_becomes_a_block_for_each_run(runs: list[Path], width: int) -> None:
    text = as_text(read_runs(runs), width)
    tables = [line for line in text.splitlines() if line.startswith(("recipe  ", "result  "))]
    assert all(len(line) <= width for line in tables)
    assert all(f"of {run.name}" in text for run in read_runs(runs)) or tables


def test_runs_on_other_data_are_not_compared_in_silence(runs: list[Path]) -> None:
    found = read_runs(runs)
    assert (doubt(found) != "") == (found[0].data != found[1].data)
    assert doubt([found[0], found[0]]) == ""


def test_names_are_as_long_as_they_must_be() -> None:
    assert short_names([Path("/r/a"), Path("/r/b")]) == ["a", "b"]
    assert short_names([Path("/x/run"), Path("/y/run")]) == ["x/run", "y/run"]


def test_wrong_use_gets_a_clear_message(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two runs or more"):
        read_runs([small_run])
    with pytest.raises(UsageError, match="there is no run there"):
        read_runs([small_run, tmp_path])
    with pytest.raises(UsageError, match="given twice"):
        read_runs([small_run, small_run])


def test_a_run_still_going_is_compared_as_far_as_it_is(small_run: Path, tmp_path: Path) -> None:
    going = tmp_path / "going"
    shutil.copytree(small_run, going)
    (going / "result.json").unlink()
    text = as_text(read_runs([small_run, going]), 200)
    assert "stopped at" in text and "done after" in text
