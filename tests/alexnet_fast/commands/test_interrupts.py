"""Ctrl-C in commands that save as they work: a sentence, exit code 130, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.commands.main import main


@pytest.mark.parametrize(
    ("place", "arguments", "says"),
    [
        ("alexnet_fast.experiments.relu_vs_tanh.read_cifar", ["experiment", "relu-vs-tanh", "DATA"], "resumes"),
        ("alexnet_fast.experiments.ablations.train", ["experiment", "ablations", "DATA"], "resumes"),
        ("alexnet_fast.inference.features.launch", ["features", "RUN", "DATA", "--out", "f.npy"], "resumes"),
        ("alexnet_fast.report.report.find_subject", ["report", "RUN"], "no page was written"),
        ("alexnet_fast.commands.verify_command.verify", ["verify", "DATA"], "nothing was changed"),
        ("alexnet_fast.pipelines.preview.draw_preview", ["preview", "DATA"], "nothing was written"),
    ],
)
def test_ctrl_c_in_the_middle(
    place: str,
    arguments: list[str],
    says: str,
    small_run: Path,
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, interrupt)
    real = {"DATA": str(tiny_shards), "RUN": str(small_run)}
    with pytest.raises(SystemExit) as ended:
        main([real.get(argument, argument) for argument in arguments])
    assert ended.value.code == 130
    shown = capsys.readouterr().err
    assert says in shown.lower() and "Traceback" not in shown
