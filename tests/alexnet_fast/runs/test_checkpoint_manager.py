"""Checkpoints on the disk: which stay, which go, and what happens when the disk does not take them."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.network.model import AlexNet, whole_state
from alexnet_fast.runs.checkpoint import Checkpoint, Mean, load_checkpoint, save_checkpoint, saved_checkpoints, step_of
from alexnet_fast.runs.checkpoint_manager import CheckpointManager, Outcome
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.run import train


def steps_in(folder: Path) -> list[int]:
    return [step_of(file) for file in saved_checkpoints(folder)]


def test_steps_that_count_anew_leave_the_new_checkpoints(tmp_path: Path) -> None:
    for step in (63, 64, 65):
        (tmp_path / f"step-{step:08d}.pt").touch()
    manager = CheckpointManager(tmp_path, keep=3)
    for step in (33, 34):
        (tmp_path / f"step-{step:08d}.pt").touch()
        manager.drop_old(step)
    assert steps_in(tmp_path) == [33, 34]
    for step in (66, 67):
        (tmp_path / f"step-{step:08d}.pt").touch()
    manager.drop_old(67)
    assert steps_in(tmp_path) == [34, 66, 67]


def test_what_a_killed_process_had_half_written_goes(tmp_path: Path) -> None:
    for name in (".step-00000007.pt.partial", ".best.pt.partial", "step-00000006.pt", "best.pt"):
        (tmp_path / name).touch()
    CheckpointManager(tmp_path, keep=3).begin(None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "step-00000006.pt"]


SMALL = ("width_divisor=16", "batch_size=4", "lr_base_batch_size=4", "precision=fp32", "final_views=1")


def checkpoint_at(step: int, error: float | None = None, best_error: float | None = None) -> Checkpoint:
    """About 2 MB."""
    recipe = load_recipe("2013", SMALL)
    model = AlexNet(recipe.architecture(3))
    model.initialize(step)
    classes = tuple((name, name) for name in "abc")
    mean = Mean("rgb", None, torch.tensor([1.0, 2.0, 3.0]))
    tensors = whole_state(model)
    momentum = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    options, totals = ImageOptions(), Totals("")
    return Checkpoint(
        recipe, classes, "f", options, mean, tensors, momentum, step, 4, (), {}, error, best_error, totals
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 10 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, *, leaving: int) -> None:
    """Leave so many bytes free."""
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - leaving))


def test_a_full_disk_gives_up_old_checkpoints_but_never_the_last_good_one(small_disk: Path) -> None:
    manager = CheckpointManager(small_disk, keep=3)
    for step in (1, 2, 3):
        assert manager.save(checkpoint_at(step)).unsaved == ""
    size = (small_disk / "step-00000003.pt").stat().st_size
    (small_disk / "step-00000003.pt").write_bytes(b"damaged on the disk")
    fill(small_disk, leaving=size // 2)
    outcome = manager.save(checkpoint_at(4))
    assert outcome.unsaved == "" and "step-00000001.pt was removed" in outcome.notes[0]
    assert 4 in steps_in(small_disk) and load_checkpoint(small_disk / "step-00000004.pt").step == 4
    (small_disk / "more").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    assert manager.save(checkpoint_at(5)).unsaved == "" and steps_in(small_disk)[-1] == 5
    for file in saved_checkpoints(small_disk)[:-1]:
        file.unlink()
    (small_disk / "most").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    outcome = manager.save(checkpoint_at(6))
    assert outcome.unsaved == "No space left on device"
    assert steps_in(small_disk) == [5] and load_checkpoint(small_disk / "step-00000005.pt").step == 5
    assert not list(small_disk.glob(".*"))


def test_a_run_whose_weights_do_not_fit_is_not_done(tiny_dataset: Dataset, small_disk: Path) -> None:
    run = small_disk / "run"
    recipe = load_recipe("2013", [*SMALL, "epochs=1", "shuffle_buffer=20"])
    fill(small_disk, leaving=1_000_000)
    with pytest.raises(UserError, match=r"(?s)could not be saved \(No space left on device\).*Make room.*--resume"):
        train(tiny_dataset, recipe, run, device="cpu", quiet=True)
    assert not (run / "result.json").exists()
    (small_disk / "filler").unlink()
    train(tiny_dataset, recipe, run, device="cpu", resume=True, quiet=True)
    assert step_of(saved_checkpoints(run / "checkpoints")[-1]) == 14 and (run / "result.json").exists()


def test_the_system_s_own_error_message_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer replaces it by one of its own."""
    real = Path.open

    def open_full(path: Path, mode: str = "r", **options: Any) -> Any:
        return real(Path("/dev/full") if path.name.endswith(".partial") else path, mode, **options)

    checkpoint = checkpoint_at(1)
    monkeypatch.setattr(Path, "open", open_full)
    assert CheckpointManager(tmp_path, keep=3).save(checkpoint).unsaved == "No space left on device"


@pytest.mark.parametrize("place", ["model", "optimizer"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_never_saved(place: str, value: float, tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep=3)
    manager.save(checkpoint_at(1))
    bad = checkpoint_at(2, error=0.1, best_error=0.1)
    getattr(bad, place)["fc7.weight"][1, 2] = value
    outcome = manager.save(bad)
    assert "after step 2 there are NaN or infinite numbers in" in outcome.diverged and "fc7.weight" in outcome.diverged
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-00000001.pt"]


@pytest.mark.parametrize("links", [True, False])
def test_the_best_has_a_second_name(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    manager = CheckpointManager(tmp_path, keep=1)
    for step, error, best_error in ((1, 0.5, 0.5), (2, 0.3, 0.3), (3, 0.4, 0.3), (4, None, 0.3)):
        assert manager.save(checkpoint_at(step, error, best_error)) == Outcome(step)
    best = load_checkpoint(tmp_path / "best.pt")
    assert (best.step, best.error) == (2, 0.3)
    expected = checkpoint_at(2).model
    assert all(torch.equal(tensor, expected[name]) for name, tensor in best.model.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "step-00000004.pt"]


def test_a_best_that_could_not_be_marked_is_reported_and_the_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    outcome = CheckpointManager(tmp_path, keep=3).save(checkpoint_at(1, 0.5, 0.5))
    assert outcome.unsaved == "" and "best.pt could not be written (No space left" in outcome.notes[0]
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_a_best_that_was_not_marked_before_a_kill_is_marked_at_the_next_start(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep=3)
    manager.save(checkpoint_at(1, 0.5, 0.5))
    save_checkpoint(tmp_path / "step-00000002.pt", checkpoint_at(2, 0.3, 0.3))  # and killed
    os.utime(tmp_path / "step-00000002.pt", (0, 0))  # on a clock that had jumped back
    manager.begin(load_checkpoint(tmp_path / "step-00000002.pt"))
    assert load_checkpoint(tmp_path / "best.pt").step == 2
    (tmp_path / "best.pt").unlink()
    manager.begin(checkpoint_at(2, 0.6, 0.3))
    assert not (tmp_path / "best.pt").exists()
