"""Runs side by side, in a terminal of any width and as a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_fast.commands.main import group
from alexnet_fast.report.compare import as_text, doubt, read_runs, short_names
from alexnet_fast.runs.checkpoint import load_checkpoint, save_checkpoint
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


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["/r/a", "/r/b"], ["a", "b"]),
        (["/r/x/run", "/r/y/run"], ["x/run", "y/run"]),
        (["demo/run", "runs/demo"], ["demo/run", "runs/demo"]),
        (["demo/run", "runs/demo", "runs/run"], ["demo/run", "runs/demo", "runs/run"]),
        (["runs/a", "runs/a/b"], ["a", "a/b"]),
        (["runs/a/.", "./runs/../runs/b"], ["a", "b"]),
        (["/mnt/a", "/home/me/b"], ["/mnt/a", "/home/me/b"]),
    ],
)
def test_names_are_paths_without_what_all_have_in_common(given: list[str], shown: list[str]) -> None:
    assert short_names([Path(path) for path in given]) == shown


def test_no_page_is_written_unasked(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(group, ["compare", *map(str, runs)])
    assert outcome.exit_code == 0 and "Wrote" not in outcome.output
    assert not list(tmp_path.glob("*.html"))


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
    found = read_runs([small_run, going])
    text = as_text(found, 200)
    assert "stopped at" in text and "done after" in text
    assert found[0].data == found[1].data != "" and "different data sets" not in text  # as its checkpoint says
    file = going / "checkpoints" / "best.pt"
    changed = replace(load_checkpoint(file), dataset_fingerprint="another", step=10**6)
    save_checkpoint(going / "checkpoints" / "step-01000000.pt", changed)
    assert "different data sets" in as_text(read_runs([small_run, going]), 200)
    shutil.rmtree(going / "checkpoints")
    assert "different data sets" not in as_text(read_runs([small_run, going]), 200)  # nothing says so


def test_speed_and_time_of_an_unfinished_run_are_those_that_result_json_would_have(
    hostile_run: Path, small_run: Path, tmp_path: Path
) -> None:
    going = tmp_path / "going"
    shutil.copytree(hostile_run, going)
    (going / "result.json").unlink()
    done, stopped = read_runs([hostile_run, going])
    assert done.result is not None
    assert stopped.images_per_s() == pytest.approx(done.result["images_per_s"], rel=0.01)
    seconds = stopped.seconds()
    assert seconds is not None and 0.5 < seconds / done.result["seconds"] < 1.5


def test_an_unfinished_run_counts_all_its_sessions(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(small_run / "recipe.toml", run)  # batches of 8
    numbers = {"loss": 1.0, "error": 0.5, "data_wait": 0.0, "lr_weights": 0.1}
    lines: list[dict[str, object]] = [
        {"kind": "session", "step": 0, "epoch": 0, "seconds": 1, "data": "shards", "options": []},
        {"kind": "train", "step": 10, "epoch": 0.123457, "seconds": 5, "images_per_s": 40, **numbers},  # 2 s
        {"kind": "event", "step": 10, "epoch": 0.123457, "seconds": 7, "event": "saved"},
        {"kind": "session", "step": 10, "epoch": 0.123457, "seconds": 2, "data": "shards", "options": []},
        {"kind": "train", "step": 30, "epoch": 0.370371, "seconds": 6, "images_per_s": 20, **numbers},  # 8 s
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_runs([run, small_run])
    assert read[0].seconds() == 7 + 6
    assert read[0].images_per_s() == pytest.approx(30 * 8 / (2 + 8))
    text = as_text(read, 200)
    assert "0.37 " in text and "0.370371" not in text
