"""The command line as a user meets it: help everywhere, and for each mistake a sentence and an exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_fast.commands.bench_command import part_and_data
from alexnet_fast.commands.main import VERBS, main
from alexnet_fast.config.recipe import load_recipe

SETTINGS = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=1", "precision=fp32", "final_views=1"]


@pytest.fixture
def run_folder(small_run: Path) -> Path:
    """A finished run of a small network."""
    return small_run


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `alexnet-fast words…`."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0 if code is None else 1), captured.out, captured.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0 and out.startswith(f"Usage: alexnet-fast {verb}")


def test_words_that_are_no_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "shrad")
    assert code == 2 and "there is no command 'shrad'; did you mean 'shard'?" in err
    assert "choose from shard, verify" in call(capsys, "xyzzy")[2]
    assert call(capsys, "--resume")[0] == 2
    assert call(capsys, "--version")[1].startswith("alexnet-fast")


MISTAKES = [
    (["shard", "{tmp}/nowhere"], 2, "nowhere"),
    (["shard", "{tmp}/empty"], 2, "empty"),
    (["train", "{tmp}/nowhere"], 2, "there is no such folder"),
    (["train", "{tmp}/empty"], 2, "no shards folder"),
    (["train", "{shards}", "--recipe", "2031"], 2, "did you mean '2010', '2012' or '2013'"),
    (["train", "{shards}", "--set", "batchsize=4"], 2, "did you mean 'batch_size'"),
    (["train", "{shards}", "--set", "epochs=many"], 2, "it must be a number"),
    (["train", "{shards}", "--set", "batch_size=100", "--out", "{tmp}/run"], 2, "59 samples, less than one batch"),
    (["train", "{shards}", "--set", "batch_size=8", "--resume", "--out", "{tmp}/none"], 2, "there is no run in"),
    (["train", "{shards}", "--set", "batch_size=8", "--out", "{run}"], 2, "holds a run already"),
    (["train", "{shards}", "--device", "tpu"], 2, "choose cpu, cuda"),
    (["train", "{shards}", "--processes", "3", "--parallel", "towers"], 2, "3 processes do not pair up"),
    (["train", "{shards}", "--processes", "3"], 2, "batch_size=126 or 129"),
    (["train", "{shards}", "--processes", "1000"], 2, "give fewer processes, or --set batch_size=1000"),
    (["train", "{shards}", "--processes", "0"], 2, "at least 1"),
    (["train", "{shards}", "--cache-decoded", "-3", "--out", "{tmp}/run"], 2, "give auto, or a number of GiB above 0"),
    (
        ["train", "{shards}", "--device", "cpu", "--cache-decoded", "3", "--out", "{tmp}/run"],
        2,
        "there is no GPU memory",
    ),
    (["eval", "{tmp}/nothing.pt", "{shards}"], 2, "no such checkpoint"),
    (["eval", "{run}", "{tmp}/Snope"], 2, "Snope: there is neither a checkpoint nor a shards folder of this name"),
    (["eval", "{run}", "{tmp}/empty"], 2, "empty: there is no checkpoint in it"),
    (["eval", "{tmp}/text.pt", "{shards}"], 1, "is no checkpoint"),
    (["eval", "{run}", "{shards}", "--split", "test"], 2, "has no test split"),
    (["predict", "{tmp}/text.pt", "x.jpg"], 1, "is no checkpoint"),
    (["predict", "{run}", "{tmp}/empty"], 1, "there is no file in this folder"),
    (["predict", "{run}", "{tmp}/gone.jpg", "{tmp}/text.pt"], 1, "gone.jpg: there is no such file"),
    (["info", "{tmp}/pipe.safetensors"], 1, "a pipe or a device"),
    (["info", "{tmp}/pipe.toml"], 1, "a pipe or a device"),
    (["recipes", "{tmp}/pipe.toml"], 2, "a pipe or a device"),
    (["predict", "{run}"], 2, "Missing argument"),
    (["export", "{run}", "--out", "{tmp}/net.h5"], 2, ".safetensors or .onnx"),
    (["export", "{run}", "--out", "/proc/net.safetensors"], 1, "cannot be written"),
    (["info", "{tmp}/" + "x" * 300], 1, "File name too long"),
    (["info", "{tmp}/nowhere"], 2, "no such file or folder"),
    (["info", "{tmp}/empty"], 2, "neither a shards folder"),
    (["info", "{tmp}/text.pt"], 1, "is no checkpoint"),
    (["preview", "{tmp}/nowhere"], 2, "there is no such folder"),
    (["preview", "{shards}", "--out", "{tmp}/x.jpg"], 2, "ends in .png"),
    (["verify", "{tmp}/empty"], 2, "no shards folder"),
    (["bench", "model", "--tune"], 2, "--tune is about the loader"),
    (["bench", "model", "--batch-size", "99999999999999"], 2, "is not in the range"),
    (["bench", "loader", "{tmp}/nowhere"], 2, "there is no such folder"),
    (["bench", "{tmp}/nowhere"], 2, "there is no such folder"),
    (["bench", "{shards}", "loader"], 2, "give a part"),
    (["bench", ""], 2, "give a part"),
    (["bench", "loader", "{shards}", "--json", "{tmp}/no/x.json"], 2, "there is no folder"),
    (["bench", "loader", "{shards}", "--json", "{tmp}"], 2, "is a folder"),
    (["bench", "loader", "{shards}", "--json", "/proc/x.json"], 1, "cannot be written"),
    (["bench", "loader", "{shards}", "--json", "/dev/null"], 2, "a device"),
    (["bench", "loader", "{shards}", "--baselines", "--ffcv-python", "{tmp}/no"], 2, "cannot be started"),
    (["recipes", "2031"], 2, "did you mean '2010', '2012' or '2013'"),
    (["demo", "--out", "{tmp}/mine"], 2, "something else than a demo"),
]


@pytest.mark.parametrize(
    ("words", "code", "sentence"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_gets_a_clear_message(
    words: list[str], code: int, sentence: str, tiny_shards: Path, run_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    (tmp_path / "text.pt").write_text("no checkpoint")
    for name in ("pipe.toml", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    filled = [word.format(tmp=tmp_path, shards=tiny_shards, run=run_folder) for word in words]
    got, _, err = call(capsys, *filled)
    assert (got, sentence in err) == (code, True), err
    assert "Traceback" not in err
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert not [path for path in left if path.suffix not in ("", ".lock") and path.name != ".lock"], left


def test_a_demo_without_its_gpu_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = call(capsys, "demo", "--out", tmp_path / "demo", "--device", "cuda")
    assert code == 2 and "device cuda: no GPU" in err and not (tmp_path / "demo").exists()


def test_gpus_that_are_not_there(
    tiny_shards: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for words, sentence in ((["--gpus", "2"], "--gpus 2"), (["--device", "cuda"], "device cuda: no GPU can be used")):
        code, _, err = call(capsys, "train", tiny_shards, *words, "--out", tmp_path / "run")
        assert code == 2 and sentence in err and not (tmp_path / "run").exists()
    for verb in (["eval", run_folder, tiny_shards], ["predict", run_folder, "x.jpg"], ["bench", "model"]):
        code, _, err = call(capsys, *verb, "--device", "cuda")
        assert code == 2 and "device cuda: no GPU can be used" in err


def test_train_doubts_a_handful_of_images(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    code, _, err = call(capsys, "train", tiny_shards, *settings, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0 and "5.9 each: too few to learn from" in err.partition("step 1")[0]


def test_resume_needs_no_recipe_and_extends_nothing(
    tiny_shards: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    shutil.copytree(run_folder, run)
    code, out, err = call(capsys, "train", tiny_shards, "--resume", "--out", run, "--device", "cpu")
    assert code == 0 and "done already" in err
    assert out.startswith("7 steps, 1 epoch.") and f"\n  alexnet-fast predict '{run}' IMAGE\n" in out


def test_eval_and_its_json(tiny_shards: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "eval", run_folder, tiny_shards, "--views", "1", "--precision", "fp32", "--json")
    found = json.loads(out)
    recorded = json.loads((run_folder / "result.json").read_text())["center_view"]
    assert code == 0
    assert found["precision"] == recorded.pop("precision") == "fp32"
    assert {key: found[key] for key in recorded} == pytest.approx(recorded, rel=1e-5)
    best = run_folder / "checkpoints" / "best.pt"
    code, out, _ = call(capsys, "eval", run_folder, best, tiny_shards, "--views", "10")
    assert code == 0 and "2 networks averaged" in out and "ten views" in out


def test_eval_refuses_other_classes(
    tiny_shards: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from alexnet_fast.tools.dataset import manifest_checksum

    folder = tmp_path / "shards"
    shutil.copytree(tiny_shards, folder)
    content = json.loads((folder / "dataset.json").read_text())
    content.pop("checksum")
    content["classes"][3][0] = "other"
    content["checksum"] = manifest_checksum(content)
    (folder / "dataset.json").write_text(json.dumps(content))
    code, _, err = call(capsys, "eval", run_folder, folder)
    assert code == 2 and "class 3 is 'other'" in err


def test_predict_takes_files_folders_and_stdin(
    tiny_shards: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tiny_shards.parent / "images" / "val" / "star"
    code, out, _ = call(capsys, "predict", run_folder, images, "--views", "1", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(lines) == 3
    for line in lines:
        probabilities = [name["probability"] for name in line["names"]]
        assert len(probabilities) == 5 and probabilities == sorted(probabilities, reverse=True)
    (tmp_path / "text.jpg").write_text("no image")
    first = sorted(images.iterdir())[0]
    code, out, err = call(capsys, "predict", run_folder, first, tmp_path / "text.jpg", tmp_path / "gone.jpg")
    assert code == 3 and out.count("%") == 5
    assert "text.jpg: not an image" in err and "gone.jpg: there is no such file" in err
    command = [sys.executable, "-m", "alexnet_fast", "predict", str(run_folder), "-", "--views", "1"]
    with first.open("rb") as stream:
        finished = subprocess.run(command, stdin=stream, capture_output=True, text=True)
    assert finished.returncode == 0 and finished.stdout.startswith("stdin")


def test_what_a_terminal_would_obey_is_shown_as_text(
    tiny_shards: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((tiny_shards.parent / "images" / "val" / "star").iterdir())
    for name in (b"a\x1b[31m.jpg", b"b\n.jpg", b"c\xff.jpg"):
        shutil.copyfile(image, os.fsencode(tmp_path) + b"/" + name)
    code, out, _ = call(capsys, "predict", run_folder, tmp_path, "--views", "1")
    shown = [line.removeprefix(f"{tmp_path}/") for line in out.splitlines() if not line.startswith("  ")]
    assert code == 0 and shown == ["a\\x1b[31m.jpg", "b\\n.jpg", "c\\udcff.jpg"]


def test_export_and_back(
    tiny_shards: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "export", run_folder, "--out", tmp_path / "net.safetensors")
    assert code == 0 and "MB" in out
    options = ("--views", "1", "--precision", "fp32", "--json")
    again = call(capsys, "eval", tmp_path / "net.safetensors", tiny_shards, *options)[1]
    assert again == call(capsys, "eval", run_folder, tiny_shards, *options)[1]
    assert call(capsys, "info", tmp_path / "net.safetensors")[0] == 0


def test_info_of_everything(tiny_shards: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "10 classes" in call(capsys, "info", tiny_shards)[1]
    assert "done after 1 epoch (" in call(capsys, "info", run_folder)[1]
    assert "training can be resumed" in call(capsys, "info", run_folder / "checkpoints" / "best.pt")[1]
    assert "train would take" in call(capsys, "info")[1]


def test_recipes_are_shown_and_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = call(capsys, "recipes")[1]
    assert "40.49 %" in listed and "Net 145" in listed
    (tmp_path / "mine.toml").write_text(call(capsys, "recipes", "2012")[1])
    assert load_recipe(str(tmp_path / "mine.toml")).network == "145"


def test_data_comes_from_the_environment(
    tiny_shards: Path, run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "ALEXNET_FAST_DATA", str(tiny_shards))
    assert "30 images" in call(capsys, "eval", run_folder, "--views", "1")[1]


@pytest.mark.parametrize("words", [["--json", "/proc/x.json"], ["--baselines", "--ffcv-python", "nowhere"]])
def test_bench_refuses_before_it_measures(
    words: list[str], tiny_shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_fast.commands.bench_command.Bench", lambda *arguments: pytest.fail("it measured"))
    assert call(capsys, "bench", "loader", tiny_shards, *words)[0] in (1, 2)


def test_bench_reports_loader_model_and_training_in_one_run(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("bench.model.SECONDS", 0.0), ("bench.model.REPETITIONS", 1),
                        ("bench.train.REPETITIONS", 1), ("bench.loader.TURNS", 2)):  # fmt: skip
        monkeypatch.setattr(f"alexnet_fast.{name}", value)
    (tmp_path / "small.toml").write_text('network = "167"\nwidth_divisor = 16\n')
    words = ["--batch-size", "4", "--recipe", tmp_path / "small.toml", "--precision", "fp32", "--device", "cpu"]
    code, out, err = call(capsys, "bench", "all", tiny_shards, *words, "--json", tmp_path / "all.json")
    assert code == 0, err
    rates = {row["name"]: row["rate"] for row in json.loads((tmp_path / "all.json").read_text())["rows"]}
    assert list(rates) == ["loader, shards to torch", "model, training step", "training end to end"]
    loader, model, training = rates.values()
    together = 1 / (1 / loader + 1 / model)
    assert f"training reaches {training / together:.0%} of that" in out
    assert f"The {'loader' if loader < model else 'model'} is the bottleneck" in out


def test_bench_loader_reports_the_shuffle(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "bench", "loader", tiny_shards, "--batch-size", "4", "--device", "cpu")
    assert code == 0, err
    assert "of neighbors have the same label (by chance" in out


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 602 bytes."),
    ],
)
def test_memory_that_is_too_small_gets_a_clear_message(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def model(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("alexnet_fast.commands.bench_command.Bench.model", model)
    code, _, err = call(capsys, "bench", "model", "--device", "cpu")
    assert code == 1 and "does not fit into memory (" in err and "smaller --batch-size" in err and "More" not in err


def test_what_is_no_want_of_memory_is_not_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(*arguments: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr("alexnet_fast.commands.bench_command.Bench.model", model)
    with pytest.raises(RuntimeError, match="something else"):
        main(["bench", "model", "--device", "cpu"])


def test_bench_takes_a_folder_alone() -> None:
    assert part_and_data(("shards",)) == ("all", Path("shards"))
    assert part_and_data(("model",)) == ("model", None)
    assert part_and_data(("loader", "model")) == ("loader", Path("model"))
    assert part_and_data(()) == ("all", None)


@pytest.mark.parametrize("option", ["--workers", "--num-workers"])
@pytest.mark.parametrize("verb", ["train", "bench", "eval"])
def test_workers_of_a_loader_are_called_threads(verb: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "x", option, "4"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "did you mean --threads 4?" in told and "--workers" in told
