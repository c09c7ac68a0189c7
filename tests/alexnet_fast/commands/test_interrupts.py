"""Ctrl-C in commands: a sentence, exit code 130, no traceback; what saves as it works resumes to the same result."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.commands.main import main
from tests.forked import Command
from tests.pausing import pause, small_parts

SECONDS = 200.0


def interrupted(arguments: list[object], folder: Path, module: str, name: str, call: int = 1) -> CompletedProcess[str]:
    """The command, sent SIGINT by another process after the `call`-th call of the function."""
    mark, deadline = folder / "in-the-middle", time.monotonic() + SECONDS
    with Command(arguments, folder / "screen", partial(pause, module, name, call, mark)) as process:
        while not mark.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.outputs[1].read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        mark.unlink()
        out, err = process.communicate(SECONDS)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "KeyboardInterrupt" not in err
    assert err.splitlines()[-1].startswith("alexnet-fast: stopped"), err
    return CompletedProcess(process.arguments, 130, out, err)


def whole(arguments: list[object], folder: Path) -> str:
    """The command from beginning to end; what it prints."""
    with Command(arguments, folder / "screen", small_parts) as process:
        out, err = process.communicate(SECONDS)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two classes, bright above and bright below."""
    random = np.random.default_rng(0)
    for split, number in (("train", 48), ("test", 1)):
        for name, rows in (("above", slice(0, 16)), ("below", slice(16, 32))):
            folder = tmp_path / "cifar" / split / name
            folder.mkdir(parents=True)
            for image in range(number):
                pixels = random.integers(0, 120, (32, 32, 3), np.uint8)
                pixels[rows] += 100
                Image.fromarray(pixels).save(folder / f"{image}.png")
    return tmp_path / "cifar"


def test_relu_vs_tanh_resumes_with_the_next_epoch(cifar: Path, tmp_path: Path) -> None:
    begin: list[object] = ["experiment", "relu-vs-tanh", cifar, "--start", "fan-in", "--seeds", "1", "--device", "cpu"]
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    ended = interrupted(
        [*begin, "--out", stopped], tmp_path, "alexnet_fast.experiments.relu_vs_tanh", "Experiment.save", 3
    )
    assert "the same command resumes" in ended.stderr
    before = json.loads((stopped / "trials.json").read_text())["trials"]
    assert sum(len(trial["errors"]) for trial in before) == 3  # the error before the first epoch is the first
    table = whole([*begin, "--out", stopped], tmp_path)
    assert table.replace(str(stopped), str(unbroken)) == whole([*begin, "--out", unbroken], tmp_path)
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (stopped, unbroken))
    assert first == second and first["trials"]


def test_ablations_resume_in_the_middle_of_a_run(tiny_shards: Path, tmp_path: Path) -> None:
    settings = ["width_divisor=16", "batch_size=16", "lr_base_batch_size=16", "precision=fp32", "final_views=1"]
    begin: list[object] = ["experiment", "ablations", tiny_shards, "--only", "tanh", "--seeds", "1", "--epochs", "1"]
    begin += ["--device", "cpu", *(word for setting in settings for word in ("--set", setting))]
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    # Three steps make an epoch, and a run: the fifth is in the middle of the second run.
    ended = interrupted(
        [*begin, "--out", stopped], tmp_path, "alexnet_fast.training.train_step", "TrainingStep.__call__", 5
    )
    assert f"stopped during {stopped}/tanh/seed-0; everything is saved" in ended.stderr
    assert (stopped / "net-167" / "seed-0" / "result.json").exists() and not (stopped / "result.json").exists()
    table = whole([*begin, "--out", stopped], tmp_path)
    assert table.replace(str(stopped), str(unbroken)) == whole([*begin, "--out", unbroken], tmp_path)
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (stopped, unbroken))
    assert first == second and len(first["variants"]) == 2


def test_features_resume_with_the_next_part(small_run: Path, tiny_shards: Path, tmp_path: Path) -> None:
    stopped, unbroken = tmp_path / "stopped.npy", tmp_path / "unbroken.npy"
    begin: list[object] = ["features", small_run, tiny_shards, "--device", "cpu"]
    ended = interrupted([*begin, "--out", stopped], tmp_path, "alexnet_fast.inference.features", "Target.write")
    assert "finished parts are kept" in ended.stderr and not stopped.exists()
    assert [file.name for file in (tmp_path / ".stopped.npy.parts").glob("0*")] == ["000000.json"]
    for out in (stopped, unbroken):
        whole([*begin, "--out", out], tmp_path)
    assert stopped.read_bytes() == unbroken.read_bytes()
    assert stopped.with_suffix(".tsv").read_text() == unbroken.with_suffix(".tsv").read_text()
    assert not (tmp_path / ".stopped.npy.parts").exists()


def test_a_report_is_whole_or_as_it_was(small_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("an older one")
    begin: list[object] = ["report", small_run, "--out", page, "--device", "cpu"]
    ended = interrupted(begin, tmp_path, "alexnet_fast.report.report", "predict_split")
    assert "no page was written" in ended.stderr
    assert page.read_text() == "an older one" and not list(tmp_path.glob(".*"))
    whole(begin, tmp_path)
    assert re.search(r"</html>\s*$", page.read_text())


def test_a_comparison_is_whole_or_not_there(small_run: Path, tmp_path: Path) -> None:
    page, other = tmp_path / "compare.html", tmp_path / "other"
    shutil.copytree(small_run, other)
    begin: list[object] = ["compare", small_run, other, "--out", page]
    ended = interrupted(begin, tmp_path, "alexnet_fast.report.charts", "curves", 2)
    assert "nothing is left half-written" in ended.stderr and not page.exists() and not list(tmp_path.glob(".*"))
    assert whole(begin, tmp_path).endswith(f"Wrote {page}.\n") and page.exists()


@pytest.mark.parametrize(
    ("place", "arguments", "says"),
    [
        ("alexnet_fast.commands.verify_command.verify", ["verify", "DATA"], "nothing was changed"),
        ("alexnet_fast.pipelines.preview.draw_preview", ["preview", "DATA"], "nothing was written"),
        ("alexnet_fast.commands.main.importlib.import_module", ["predict", "RUN", "x.jpg"], "half-written"),
    ],
)
def test_ctrl_c_in_commands_that_only_look(
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
