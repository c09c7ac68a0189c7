"""Checkpoints on the disk: which stay, which go, and what happens when the disk does not take them."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast.checkpoint import saved_checkpoints, step_of
from alexnet_fast.saver import Saver


def steps_in(folder: Path) -> list[int]:
    return [step_of(file) for file in saved_checkpoints(folder)]


def test_steps_that_count_anew_leave_the_new_checkpoints(tmp_path: Path) -> None:
    for step in (63, 64, 65):
        (tmp_path / f"step-{step:08d}.pt").touch()
    saver = Saver(tmp_path, keep=3)
    for step in (33, 34):
        (tmp_path / f"step-{step:08d}.pt").touch()
        saver.drop_old(step)
    assert steps_in(tmp_path) == [33, 34]
    for step in (66, 67):
        (tmp_path / f"step-{step:08d}.pt").touch()
    saver.drop_old(67)
    assert steps_in(tmp_path) == [34, 66, 67]


def test_what_a_killed_process_had_half_written_goes(tmp_path: Path) -> None:
    for name in (".step-00000007.pt.partial", ".best.pt.partial", "step-00000006.pt", "best.pt"):
        (tmp_path / name).touch()
    Saver(tmp_path, keep=3).sweep()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "step-00000006.pt"]
