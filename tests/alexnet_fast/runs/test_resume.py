"""Runs that resume elsewhere: on other processes, after a full disk, from an older checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe, override
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.inference.load import read_checkpoint
from alexnet_fast.runs.checkpoint import (
    Checkpoint,
    all_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    resolve_checkpoint,
    saved_checkpoints,
)
from alexnet_fast.runs.describe import describe_run
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import (
    Resume,
    find_start,
    recipe_of_run,
    recipe_to_resume,
    restore_place,
    resume_target,
)
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.training.run import train
from alexnet_fast.training.telemetry import Telemetry
from tests.saved_state import assert_same_state

SETTINGS = (
    "width_divisor=16",
    "batch_size=4",
    "lr_base_batch_size=4",
    "precision=fp32",
    "final_views=1",
    "shuffle_buffer=20",
)


def test_the_middle_of_an_epoch_moves_to_other_processes(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_fast.runs.checkpoint_manager.CheckpointManager.drop_old", lambda saver, step: None)
        recipe = load_recipe("2013", [*SETTINGS, "epochs=1.5", "checkpoint_minutes=0.0001"])
        train(tiny_dataset, recipe, run, device="cpu", quiet=True)
    for file in saved_checkpoints(run / "checkpoints")[-2:]:
        file.unlink()
    newest = load_checkpoint(saved_checkpoints(run / "checkpoints")[-1])
    assert newest.step % newest.steps_per_epoch != 0
    train(tiny_dataset, recipe, run, device="cpu", processes=2, resume=True, quiet=True)
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert any("start of epoch 2" in event and "the run had 1 process and has 2" in event for event in events)
    assert json.loads((run / "result.json").read_text())["steps"] == newest.steps_per_epoch * 3 // 2


def test_telemetry_reports_a_full_disk_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry = Telemetry(RunFolder(tmp_path), Schedule(load_recipe("2013"), 10), first_step=0)
    telemetry.metrics.close()
    telemetry.metrics = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SIM115 (closed with the telemetry)
    telemetry.event(1, "first")
    telemetry.event(2, "second")
    telemetry.close()
    err = capsys.readouterr().err
    assert err.count("No space left on device") == 1
    assert "first" in err and "second" in err


def test_a_run_resumes_after_a_disk_full_at_its_end(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    run, recipe = tmp_path / "run", load_recipe("2013", [*SETTINGS, "epochs=0.5"])
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_fast.training.illustrator.draw_report", full)
        with pytest.raises(UserError, match=r"(?s)No space left.*--resume"):
            train(tiny_dataset, recipe, run, device="cpu", quiet=True)
    train(tiny_dataset, recipe, run, device="cpu", resume=True, quiet=True)
    assert (run / "figures" / "curves.png").exists()


def test_a_runs_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (1, 2, 3):
        torch.save({"weights": torch.zeros(100)}, folder / f"step-{step:08d}.pt")
    newest = folder / "step-00000003.pt"
    assert resolve_checkpoint(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-50])
    assert resolve_checkpoint(tmp_path).name == "step-00000002.pt"
    assert resolve_checkpoint(newest) == newest


def test_a_run_resumes_with_its_own_recipe(tiny_dataset: Dataset, tmp_path: Path) -> None:
    run, began = RunFolder(tmp_path / "mine"), load_recipe("2013", [*SETTINGS, "epochs=0.5"])
    with pytest.raises(UsageError, match="there is no run in"):
        recipe_of_run(run)
    train(tiny_dataset, began, run.path, device="cpu", quiet=True)
    assert recipe_of_run(run) == began  # its name too, whatever the folder is called
    whole = run.recipe.read_text()
    for cut in ("", whole[: whole.index("# ", len(whole) // 2)]):
        run.recipe.write_text(cut)
        with pytest.raises(UsageError, match=r"recipe.toml says nothing of .*keep_checkpoints.*move it away"):
            recipe_of_run(run)
    with run.recipe.open("a") as file:
        file.write("epochs\n")
    with pytest.raises(UsageError, match=r"recipe.toml is no TOML.*move it away"):
        recipe_of_run(run)
    run.recipe.unlink()
    assert recipe_of_run(run) == began


def test_another_network_is_refused_before_anything_else(tiny_dataset: Dataset, tmp_path: Path) -> None:
    """The batch of the recipe that was given by mistake does not fit the data either."""
    run, began = tmp_path / "run", load_recipe("2013", [*SETTINGS, "epochs=0.5"])
    train(tiny_dataset, began, run, device="cpu", quiet=True)
    with pytest.raises(UsageError, match=r"network '167', the recipe says '145'.*--set network=167 --set width_div"):
        train(tiny_dataset, load_recipe("2012"), run, device="cpu", resume=True, quiet=True)


@pytest.fixture(scope="module")
def begun(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Of a run that stands in the middle of its second epoch, after 7 of 14 steps."""
    run = tmp_path_factory.mktemp("runs") / "begun"
    train(tiny_dataset, load_recipe("2013", [*SETTINGS, "epochs=1.5"]), run, device="cpu", quiet=True)
    return load_checkpoint(saved_checkpoints(run / "checkpoints")[-1])


def test_a_damaged_position_among_the_images_is_reported(begun: Checkpoint) -> None:
    assert begun.inside_an_epoch
    recipe, broken = begun.recipe, replace(begun, loaders=({"version": 1, "epoch": 1},))

    def load(state: dict[str, Any]) -> None:
        assert state["stream"]

    step, note = restore_place(load, broken, Schedule(recipe, 14), rank=0, num_ranks=1, all_agree=lambda fine: fine)
    assert step == 14 and note is not None and "start of epoch 2" in note and "damaged ('stream')" in note


KEEP = "to keep it, stop at once with Ctrl-C twice, and resume with"


@pytest.mark.parametrize(
    ("settings", "steps_per_epoch", "num_ranks", "message"),
    [
        (
            ["batch_size=8"], 7, 1,
            f"batch_size was 4 and is 8 ({KEEP} --set batch_size=4). "
            "Resuming from the start of epoch 2, of which 7 steps had been done.",
        ),
        # As many steps by chance: the loader complains.
        (["batch_size=5"], 14, 1, "batch_size was 4 and is 5 (to keep it"),
        (["seed=1"], 14, 1, f"seed was 0 and is 1 ({KEEP} --set seed=0)"),
        ([], 14, 2, f"the run had 1 process and has 2 ({KEEP} 1 process (--gpus or --processes))"),
        (["batch_size=8"], 7, 2, "batch_size was 4 and is 8 and the run had 1 process and has 2"),
        ([], 13, 1, "an epoch has 13 steps and had 14. Resuming"),
        ([], 14, 1, "cannot be kept: the stream is another. Resuming"),
    ],
)  # fmt: skip
def test_what_moves_the_position_is_reported_with_the_way_to_keep_it(
    settings: list[str], steps_per_epoch: int, num_ranks: int, message: str, begun: Checkpoint
) -> None:
    def load(state: dict[str, Any]) -> None:
        raise UserError("the stream is another.")

    schedule = Schedule(override(begun.recipe, settings), steps_per_epoch)
    step, note = restore_place(load, begun, schedule, rank=0, num_ranks=num_ranks, all_agree=lambda fine: fine)
    assert step == steps_per_epoch and note is not None and message in note


def test_a_change_that_moves_nothing_keeps_the_position(begun: Checkpoint) -> None:
    schedule = Schedule(override(begun.recipe, ["shuffle_buffer=59"]), 14)
    restored = restore_place(lambda state: None, begun, schedule, rank=0, num_ranks=1, all_agree=lambda fine: fine)
    assert restored == (21, None)


def test_devices_and_pipes_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/dev/zero is no checkpoint.*a pipe or a device"):
        load_checkpoint(resolve_checkpoint(Path("/dev/zero")))
    os.mkfifo(tmp_path / "step-00000001.pt")
    with pytest.raises(UsageError, match="there is no checkpoint in it"):
        resolve_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def finished(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs of 14 steps, all its checkpoints kept; one of its best after two epochs."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    recipe = load_recipe("2013", [*SETTINGS, "epochs=3", "keep_checkpoints=9"])
    train(tiny_dataset, recipe, run, device="cpu", quiet=True)
    checkpoints = run / "checkpoints"
    (checkpoints / "best.pt").unlink()
    shutil.copy2(checkpoints / "step-00000028.pt", checkpoints / "best.pt")
    return run


def copy_of(run: Path, place: Path, *without: str) -> Path:
    shutil.copytree(run, place)
    for pattern in without:
        for file in (place / "checkpoints").glob(pattern):
            file.unlink()
    return place


def test_a_run_of_which_only_the_best_is_left_resumes_from_it(
    finished: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It began anew, and wrote its first errors over the metrics and its first weights over the best."""
    run = copy_of(finished, tmp_path / "run", "step-*.pt")
    best = run / "checkpoints" / "best.pt"
    assert resolve_checkpoint(run) == best
    assert "checkpoints  1, the newest best.pt" in describe_run(RunFolder(run))
    before = load_checkpoint(best)
    train(tiny_dataset, before.recipe, run, device="cpu", resume=True, quiet=True)
    assert [line["step"] for line in RunFolder(run).read_metrics() if line["kind"] == "val"] == [14, 28, 42]
    assert_same_state(finished, run)


def test_the_best_stands_where_its_step_is(finished: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path / "run", "step-00000028.pt")
    names = [file.name for file in all_checkpoints(run / "checkpoints")]
    assert names == ["step-00000014.pt", "best.pt", "step-00000042.pt"]
    (run / "checkpoints" / "step-00000042.pt").write_bytes(b"cut short")
    assert resolve_checkpoint(run).name == "best.pt"
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None and found[1].step == 28 and "step-00000042.pt" in found[2][0]
    (run / "checkpoints" / "best.pt").write_bytes(b"cut short too")
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None and found[1].step == 14


@pytest.mark.parametrize("name", ["step-00000042.pt", None])
def test_every_rank_starts_from_the_main_rank_s_checkpoint(
    finished: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """Another machine listed a shared folder as it had been, and its replicas trained on older weights."""
    shown = copy_of(finished, tmp_path / "run", "best.pt", "step-00000042.pt")
    assert [file.name for file in all_checkpoints(shown / "checkpoints")] == ["step-00000014.pt", "step-00000028.pt"]
    said = None if name is None else finished / "checkpoints" / name
    monkeypatch.setattr("alexnet_fast.runs.resume.broadcast_object", lambda mesh, own: said)
    recipe = recipe_of_run(RunFolder(finished))
    start, _ = find_start(RunFolder(shown), tiny_dataset, recipe, mesh=Mesh(rank=1, world_size=2))
    assert start is None if name is None else start is not None and start.step == 42


def test_a_checkpoint_that_its_run_replaces_while_it_is_read_is_no_error(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict`, `eval` and `report` of a run that trains on and keeps one checkpoint, as the demo's does."""
    run = copy_of(finished, tmp_path / "run", "step-00000014.pt", "step-00000042.pt", "best.pt")
    old, new = (run / "checkpoints" / f"step-{step:08d}.pt" for step in (28, 42))

    def check_whole(path: Path) -> None:
        if path == old:
            old.unlink()
            shutil.copy2(finished / "checkpoints" / new.name, new)

    monkeypatch.setattr("alexnet_fast.runs.checkpoint.check_whole", check_whole)
    file, loaded = read_checkpoint(run)
    assert (file, loaded.step) == (new, 42)
    with pytest.raises(UsageError, match=f"{old}: there is no such checkpoint"):
        read_checkpoint(old)


def test_a_checkpoint_that_its_run_removes_while_the_folder_is_listed_is_passed_over(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(finished, tmp_path / "run")
    folder = run / "checkpoints"

    def then_removed(folder: Path) -> list[Path]:
        found = saved_checkpoints(folder)
        found[0].unlink()
        return found

    monkeypatch.setattr("alexnet_fast.runs.checkpoint.saved_checkpoints", then_removed)
    assert all_checkpoints(folder)[-1].name == "step-00000042.pt"


def test_nothing_is_overwritten_where_no_checkpoint_can_be_read(
    finished: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path / "run")
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(b"cut short")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    with pytest.raises(UserError, match="no checkpoint can be read, and none is overwritten"):
        train(tiny_dataset, load_recipe("2013", [*SETTINGS, "epochs=3"]), run, device="cpu", resume=True, quiet=True)
    assert {file: file.read_bytes() for file in before} == before


def test_resuming_from_an_older_checkpoint_keeps_the_newer(
    finished: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path / "run")
    recipe, named = recipe_of_run(RunFolder(run)), run / "checkpoints" / "step-00000014.pt"
    train(tiny_dataset, recipe, run, device="cpu", resume=True, checkpoint=named, quiet=True)
    assert_same_state(finished, run)
    aside = run / "checkpoints" / "set-aside-1"
    assert sorted(file.name for file in aside.iterdir()) == [
        "best.pt", "metrics.jsonl", "step-00000028.pt", "step-00000042.pt",
    ]  # fmt: skip
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert f"Starting from {named}." in events and any("3 newer checkpoints" in event for event in events)


def test_a_new_run_starts_from_another_run_s_checkpoint(finished: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    named, before = finished / "checkpoints" / "step-00000028.pt", set(finished.rglob("*"))
    train(tiny_dataset, load_checkpoint(named).recipe, tmp_path / "run", device="cpu", checkpoint=named, quiet=True)
    assert_same_state(finished, tmp_path / "run")
    assert set(finished.rglob("*")) == before


def test_what_resume_names(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default, named = Path("runs/2013"), finished / "checkpoints" / "best.pt"
    assert resume_target(None, None, default) == Resume(default)
    assert resume_target(None, tmp_path, default) == Resume(tmp_path)
    assert resume_target(finished, None, default) == Resume(finished)
    assert resume_target(named, None, default) == Resume(finished, named)
    assert resume_target(named, finished, default) == Resume(finished, named)
    assert resume_target(named, tmp_path / "new", default) == Resume(tmp_path / "new", named, begins_run=True)
    newest = resume_target(finished, tmp_path / "new", default)
    assert newest.begins_run and newest.checkpoint == finished / "checkpoints" / "step-00000042.pt"
    assert recipe_to_resume(newest).epochs == 3
    monkeypatch.chdir(finished.parent)
    assert resume_target(named.relative_to(finished.parent), None, default).run == Path("finished")
    shutil.copy2(named, tmp_path / "stray.pt")
    for given, out, message in (
        (tmp_path / "none.pt", None, "no such checkpoint and no such run"),
        (tmp_path / "stray.pt", None, "lies in no run's folder"),
        (finished, tmp_path, "are two runs"),
    ):
        with pytest.raises(UsageError, match=message):
            resume_target(given, out, default)


def test_metrics_tensorboard_and_result_agree_after_any_number_of_resumes(
    finished: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Resumed in the middle, with another number of steps in an epoch, and at the end before the result was written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = copy_of(finished, tmp_path / "run", "step-00000042.pt")
    recipe = override(recipe_of_run(RunFolder(run)), ["batch_size=5", "final_views=10"])
    train(tiny_dataset, recipe, run, device="cpu", resume=True, quiet=True)
    (run / "result.json").unlink()
    result = train(tiny_dataset, recipe, run, device="cpu", resume=True, quiet=True)

    expected: dict[str, list[tuple[int, float]]] = {}
    for line in RunFolder(run).read_metrics():
        group = line.get("split", line["kind"])
        group = group if line.get("views", 1) == 1 else f"{group}_{line['views']}_views"
        for name in ("loss", "error", "images_per_s", "lr_weights", "top1_error", "top5_error"):
            if line.get(name) is not None:
                expected.setdefault(f"{group}/{name}", []).append((line["step"], line[name]))
    board: Any = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    for name, points in expected.items():
        drawn = [(point.step, point.value) for point in board.Scalars(name)]
        assert drawn == [(step, pytest.approx(value)) for step, value in points], name
    validations = [line for line in RunFolder(run).read_metrics() if line["kind"] == "val"]
    assert [(line["epoch"], line["views"]) for line in validations] == [(1, 1), (2, 1), (3, 1), (3, 10)]
    for views, line in (("center_view", validations[2]), ("10_views", validations[3])):
        assert {key: line[key] for key in ("loss", "top1_error", "top5_error")}.items() <= result[views].items()
    assert result["best_top1_error"] == min(line["top1_error"] for line in validations if line["views"] == 1)
