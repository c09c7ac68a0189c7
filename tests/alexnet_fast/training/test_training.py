"""Training runs: they learn, resume to the bit, survive kills, and say what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import Recipe, load_recipe
from alexnet_fast.inference.evaluation import EvaluationResult
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.runs.checkpoint import load_checkpoint, saved_checkpoints, step_of
from alexnet_fast.runs.describe import describe_run
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import StoppedError, UsageError, UserError
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.run import train
from alexnet_fast.training.train_step import TrainingStep
from tests.forked import Command, run_command
from tests.saved_state import state_of

SETTINGS = (
    "width_divisor=16",
    "batch_size=4",
    "lr_base_batch_size=4",
    "epochs=2",
    "precision=fp32",
    "final_views=1",
    "shuffle_buffer=20",
)


def small_recipe(*settings: str) -> Recipe:
    return load_recipe("2013", [*SETTINGS, *settings])


def same_weights(first: Path, second: Path) -> bool:
    one, two = state_of(first), state_of(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in RunFolder(run).read_metrics() if line["kind"] == "val"}


def epochs_evaluated(run: Path) -> list[float]:
    return [line["epoch"] for line in RunFolder(run).read_metrics() if line["kind"] == "val"]


def stop_in(step: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGTERM) -> None:
    """The signal comes in the middle of the step with this number, counted from 0."""
    real = TrainingStep.__call__

    def signaled(train_step: TrainingStep, *arguments: Any, **options: Any) -> Any:
        if options["step"] == step:
            signal.raise_signal(number)
        return real(train_step, *arguments, **options)

    monkeypatch.setattr(TrainingStep, "__call__", signaled)


@pytest.fixture(scope="module")
def unbroken(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    train(tiny_dataset, small_recipe(), run, device="cpu", quiet=True)
    return run


def test_a_run_leaves_what_it_promises(unbroken: Path) -> None:
    steps = 2 * (59 // 4)
    result = json.loads((unbroken / "result.json").read_text())
    assert (result["steps"], result["epochs"], result["precision"]) == (steps, 2.0, "fp32")
    assert result["center_view"]["num_samples"] == 30
    assert load_recipe(str(unbroken / "recipe.toml")).epochs == 2
    metrics = RunFolder(unbroken).read_metrics()
    assert [line["step"] for line in metrics if line["kind"] == "val"] == [steps // 2, steps]
    trains = [line for line in metrics if line["kind"] == "train"]
    assert trains[-1]["step"] == steps and 0 <= trains[-1]["data_wait"] <= 1 and trains[-1]["images_per_s"] > 0
    assert (unbroken / "figures" / "curves.png").stat().st_size > 1000
    assert (unbroken / "figures" / "conv1.png").stat().st_size > 1000
    assert any((unbroken / "tensorboard").iterdir())
    assert (unbroken / "checkpoints" / "best.pt").exists()
    assert not list(unbroken.rglob("*.partial"))


def test_decoded_images_outlast_evaluations(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("pause", "close"):
        real = getattr(TrainingLoader, name)

        def noted(loader: TrainingLoader, name: str = name, real: Any = real) -> None:
            called.append(name)
            real(loader)

        monkeypatch.setattr(TrainingLoader, name, noted)
    result = train(tiny_dataset, small_recipe("epochs=0.5"), tmp_path / "run", device="cpu", quiet=True)
    assert result["decoded_images_gib"] == 0
    assert called.count("close") == 1 and called.index("close") > called.index("pause") >= 0


def test_on_a_cpu_no_decoded_images_can_be_kept(tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cache-decoded: on a CPU there is no GPU memory"):
        train(tiny_dataset, small_recipe(), tmp_path / "run", device="cpu", quiet=True, cache_decoded="auto")
    assert not (tmp_path / "run").exists()


def test_a_run_over_several_sessions_reports_what_all_of_them_cost(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in(20, patch)
        with pytest.raises(StoppedError):
            train(tiny_dataset, small_recipe(), run, device="cpu", quiet=True)
    first = load_checkpoint(saved_checkpoints(run / "checkpoints")[-1]).totals
    assert (first.images, first.energy_kwh) == (21 * 4, None)
    result = train(tiny_dataset, small_recipe(), run, device="cpu", resume=True, quiet=True)
    last = load_checkpoint(saved_checkpoints(run / "checkpoints")[-1]).totals
    assert last.images == 28 * 4
    assert result["images_per_s"] == pytest.approx(last.images / last.training_seconds)
    assert result["seconds"] > last.seconds > last.training_seconds > first.training_seconds
    assert result["started"] == first.started and result["energy_kwh"] is None
    times = [datetime.fromisoformat(result[key]) for key in ("started", "finished")]
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert -1 <= (times[1] - times[0]).total_seconds() - result["seconds"] < 60  # timestamps have whole seconds


def test_a_finished_run_is_left_as_it_is(
    unbroken: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    before = {file: file.read_bytes() for file in (run / "result.json", run / "metrics.jsonl")}
    result = train(tiny_dataset, small_recipe(), run, device="cpu", resume=True)
    assert result == json.loads((run / "result.json").read_text()) and result["images_per_s"] > 0
    assert "is done already" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in before} == before


def test_a_finished_run_that_is_extended_is_not_done(
    unbroken: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    assert "done after 2 epochs" in describe_run(RunFolder(run))
    stop_in(31, monkeypatch)
    with pytest.raises(StoppedError):
        train(tiny_dataset, small_recipe("epochs=3"), run, device="cpu", resume=True, quiet=True)
    assert "stopped at epoch 2.29 of 3" in describe_run(RunFolder(run))


@pytest.mark.parametrize("step", [0, 5, 13, 20])
def test_a_stopped_run_resumes_bit_for_bit(
    step: int, tiny_dataset: Dataset, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in(step, patch)
        with pytest.raises(StoppedError, match="--resume"):
            train(tiny_dataset, small_recipe(), run, device="cpu", quiet=True)
    assert load_checkpoint(saved_checkpoints(run / "checkpoints")[-1]).step == step + 1
    train(tiny_dataset, small_recipe(), run, device="cpu", resume=True, quiet=True)
    assert same_weights(run, unbroken)
    assert losses(run) == losses(unbroken)


def command_line(shards: Path, run: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", str(shards), *settings, "--out", str(run), "--device", "cpu", *more]


def test_sigterm_saves_and_says_how_to_resume(tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Command(command_line(tiny_shards, run, "--set", "epochs=400"), tmp_path / "first") as process:
        while not (run / "metrics.jsonl").exists() or "val" not in (run / "metrics.jsonl").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        refused = run_command(command_line(tiny_shards, run, "--resume"), tmp_path / "second")
        assert refused.returncode == 1 and f"in use by process {process.pid}" in refused.stderr
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM
    assert "everything is saved" in err and "--resume" in err and "Traceback" not in err
    places = [err.index(text) for text in ("Stopping: saving as soon as", "Saved after step", "stopped by SIGTERM")]
    assert places == sorted(places)


def test_a_cut_checkpoint_falls_back_to_the_one_before(unbroken: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    newest = saved_checkpoints(run / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (run / "checkpoints" / "best.pt").unlink()
    train(tiny_dataset, small_recipe(), run, device="cpu", resume=True, quiet=True)
    assert same_weights(run, unbroken)
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert any(newest.name in event and "older checkpoint" in event for event in events)


def test_a_full_disk_leaves_the_checkpoint_before(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, checkpoint: object) -> None:
        raise OSError(28, "No space left on device")

    run = tmp_path / "run"
    train(tiny_dataset, small_recipe("epochs=1"), run, device="cpu", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_fast.runs.checkpoint_manager.save_checkpoint", full)
        with pytest.raises(UserError, match=r"No space left.*last good checkpoint is the one after step 14"):
            train(tiny_dataset, small_recipe("epochs=2"), run, device="cpu", resume=True, quiet=True)
    assert [file.name for file in saved_checkpoints(run / "checkpoints")] == ["step-00000014.pt"]
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert any("No space left" in event for event in events)
    assert any("epochs 1.0 → 2.0" in event for event in events)


def test_divergence_stops_with_rates_and_remedy(tiny_dataset: Dataset, tmp_path: Path) -> None:
    recipe = small_recipe(
        "lr_weights=[1e6]", "lr_weights_milestones=[0]", "lr_biases=[1e6]", "lr_biases_milestones=[0]"
    )
    with pytest.raises(DivergedError, match=r"step \d+: the loss or a gradient is NaN.*1e\+06.*To try") as caught:
        train(tiny_dataset, recipe, tmp_path / "run", device="cpu", quiet=True)
    assert "no checkpoint was saved before" in str(caught.value)
    last = RunFolder(tmp_path / "run").read_metrics()[-1]
    assert (last["kind"], last["event"]) == ("diverged", str(caught.value))
    assert "state        diverged at" in describe_run(RunFolder(tmp_path / "run"))


def test_weights_that_the_last_step_made_infinite_are_no_result(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later step is there to notice."""
    run = tmp_path / "run"
    train(tiny_dataset, small_recipe("epochs=1"), run, device="cpu", quiet=True)
    real = TrainingStep.drain

    def ruin(step: TrainingStep) -> None:
        real(step)
        with torch.no_grad():
            step.parameters["fc8.weight"][0, 0] = float("inf")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "drain", ruin)
        patch.setattr("alexnet_fast.training.evaluator.evaluate", lambda *_, **__: EvaluationResult(30, 1.0, 0.5, 0.1))
        with pytest.raises(DivergedError, match=r"infinite numbers in fc8.weight.*one after step 14\..*To try"):
            train(tiny_dataset, small_recipe("epochs=2"), run, device="cpu", resume=True, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "drain", ruin)
        with pytest.raises(DivergedError, match="loss of the val split is NaN"):
            train(tiny_dataset, small_recipe("epochs=2"), run, device="cpu", resume=True, quiet=True)
    assert step_of(saved_checkpoints(run / "checkpoints")[-1]) == 14
    assert load_checkpoint(run / "checkpoints" / "best.pt").step == 14


def test_another_network_cannot_resume(unbroken: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    with pytest.raises(UsageError, match="network '167', the recipe says '145'"):
        train(tiny_dataset, small_recipe("network=145"), run, device="cpu", resume=True, quiet=True)


def test_another_batch_size_resumes_from_the_epochs_start(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in(16, patch)
        with pytest.raises(StoppedError):
            train(tiny_dataset, small_recipe(), run, device="cpu", quiet=True)
    result = train(tiny_dataset, small_recipe("batch_size=8"), run, device="cpu", resume=True, quiet=True)
    assert result["steps"] == 2 * (59 // 8)
    # Steps count anew, from 7: the ones after step 15 and later belong to the course that was left.
    assert [step_of(file) for file in saved_checkpoints(run / "checkpoints")] == [14]
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert any("from the start of epoch 2" in event for event in events)
    # The first epoch's history stays although its steps have higher numbers than where the run resumes; the weights
    # from within the second are not taken for its result.
    assert epochs_evaluated(run) == [1, 2]
    trains = [line["epoch"] for line in RunFolder(run).read_metrics() if line["kind"] == "train"]
    assert trains == sorted(trains) and 1.0 in trains  # on a busy machine there are lines within epochs too


def test_another_batch_size_after_a_whole_epoch_loses_nothing(tiny_dataset: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_dataset, small_recipe("epochs=1"), run, device="cpu", quiet=True)
    result = train(tiny_dataset, small_recipe("batch_size=8"), run, device="cpu", resume=True, quiet=True)
    assert result["steps"] == 14
    events = [line["event"] for line in RunFolder(run).read_metrics() if line["kind"] == "event"]
    assert any("batch_size 4 → 8" in event for event in events)
    assert not any("cannot be kept" in event for event in events)
    assert epochs_evaluated(run) == [1, 2]


def test_folders_that_cannot_be(unbroken: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    def refused(run: Path, words: str, **options: Any) -> None:
        with pytest.raises(UserError, match=words):
            train(tiny_dataset, small_recipe(), run, device="cpu", quiet=True, **options)

    refused(unbroken, "holds a run already")
    refused(tmp_path / "nothing", "there is no run in", resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    refused(tmp_path / "full", "is no run of this program")
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "is no run of this program")
    refused(tmp_path / "file" / "run", "cannot be written")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.parametrize(("processes", "parallel"), [(2, "towers"), (2, "data")])
def test_two_processes_do_what_one_does(
    processes: int, parallel: str, tiny_shards: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--processes", str(processes), "--parallel", parallel, "--set", "epochs=1")
    finished = run_command(command_line(tiny_shards, run, *options), tmp_path)
    assert finished.returncode == 0, finished.stderr
    checkpoint = load_checkpoint(saved_checkpoints(run / "checkpoints")[-1])
    alone = load_checkpoint(saved_checkpoints(unbroken / "checkpoints")[-1])
    assert {name: tensor.shape for name, tensor in checkpoint.model.items()} == {
        name: tensor.shape for name, tensor in alone.model.items()
    }
    result = json.loads((run / "result.json").read_text())
    assert (result["processes"], result["towers_split"]) == (2, parallel == "towers")
    assert result["center_view"]["num_samples"] == 30
    # The weights continue in one process, the epoch being complete.
    alone_again = run_command(command_line(tiny_shards, run, "--resume"), tmp_path)
    assert alone_again.returncode == 0, alone_again.stderr
    assert "epochs 1.0 → 2.0" in alone_again.stderr
