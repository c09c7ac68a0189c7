"""The report of a run: in a browser, and its parts against numbers made by hand."""

from __future__ import annotations

import errno
import html
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner

from alexnet_fast.commands.main import group
from alexnet_fast.config.precision import choose_precision
from alexnet_fast.inference.evaluation import evaluate
from alexnet_fast.inference.load import load_trained, mean_to_subtract
from alexnet_fast.pipelines.evaluation_loader import EvaluationLoader
from alexnet_fast.report import charts, kernels, report
from alexnet_fast.report.images import read_places
from alexnet_fast.report.kernels import color_score
from alexnet_fast.report.predictions import (
    Predictions,
    calibration,
    choose_examples,
    class_errors,
    confusion_matrix,
    predict_split,
    worst_confusions,
)
from alexnet_fast.report.report import shown_labels, write_report
from alexnet_fast.report.subject import find_subject
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.errors import UsageError
from tests.alexnet_fast.report.hostile import HOSTILE, without_split

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def silent(text: str) -> None: ...


@pytest.fixture(scope="module")
def page(hostile_run: Path) -> Path:
    return write_report(hostile_run, None, None, device="cpu", say=silent)


def browse(page: Path, width: int, scheme: str) -> tuple[dict[str, Any], list[str]]:
    """What headless Chromium makes of a page, and all that went wrong or was asked of a network."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    problems: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") else None)
        tab.set_default_timeout(200_000)  # of a busy machine
        tab.goto(page.as_uri())
        tab.wait_for_function(
            "document.querySelectorAll('.chart svg').length === document.querySelectorAll('.chart').length"
        )
        found = tab.evaluate(
            """() => ({
              title: document.title,
              images: document.images.length,
              broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
              charts: document.querySelectorAll('.chart svg').length,
              scripts: document.scripts.length,
              handlers: document.querySelectorAll('[onerror]').length,
              width: document.documentElement.scrollWidth,
              ground: getComputedStyle(document.body).backgroundColor,
              ink: getComputedStyle(document.querySelector('.chart svg text')).fill,
              values: [...document.querySelectorAll('#results [data-value]')].map(cell => +cell.dataset.value),
              text: document.body.innerText,
            })"""
        )
        tab.locator("#figure-loss svg").hover()
        tab.wait_for_selector("#vg-tooltip-element.visible")
        found["tooltip"] = tab.inner_text("#vg-tooltip-element")
        browser.close()
    return found, problems


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (380, "dark")])
def test_a_browser_shows_everything_and_runs_nothing_of_a_strangers(
    page: Path, hostile_run: Path, width: int, scheme: str
) -> None:
    found, problems = browse(page, width, scheme)
    assert problems == []
    assert found["title"] == hostile_run.name
    assert found["handlers"] == 0
    assert found["broken"] == 0 and found["images"] > 50 and found["charts"] == 8
    assert found["width"] <= width
    dark = sum(map(int, re.findall(r"\d+", found["ground"])[:3])) < 384
    assert dark == (scheme == "dark")
    light_ink = sum(map(int, re.findall(r"\d+", found["ink"])[:3])) > 384
    assert light_ink == (scheme == "dark")
    result = RunFolder(hostile_run).read_result()
    assert result is not None
    expected = [
        result["10_views"]["top1_error"], result["10_views"]["top5_error"], result["center_view"]["top1_error"],
        result["center_view"]["top5_error"], result["best_top1_error"],
    ]  # fmt: skip
    assert found["values"][:5] == expected
    for label in HOSTILE[:4]:
        assert label in found["text"] or label not in html.unescape(page.read_text())
    assert "epoch" in found["tooltip"]


def test_the_page_holds_each_hostile_name_only_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for label in HOSTILE[:2]:
        assert label not in text
        assert html.escape(label, quote=False).replace("'", "&#39;").replace('"', "&#34;") in text
    assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|49 \$\{", text)
    assert "http://" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)


def test_its_own_pass_over_the_images_finds_the_error_of_the_evaluation(page: Path, hostile_run: Path) -> None:
    result = RunFolder(hostile_run).read_result()
    assert result is not None
    own = re.search(r'id="own-error" data-value="([^"]+)"', page.read_text(encoding="utf-8"))
    assert own is not None and float(own[1]) == pytest.approx(result["center_view"]["top1_error"])


def test_the_command_repeats_the_run(page: Path, hostile_run: Path) -> None:
    command = re.search(r'<pre id="command">(.*?)</pre>', page.read_text(encoding="utf-8"), flags=re.S)
    assert command is not None
    text = html.unescape(command[1])
    for words in ("alexnet-fast train", "--recipe demo", "--set width_divisor=16", "--set batch_size=16"):
        assert words in text


def test_a_run_that_has_saved_nothing_yet_has_a_report(hostile_run: Path, tmp_path: Path) -> None:
    shutil.copy(hostile_run / "recipe.toml", tmp_path)
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps(
            {"kind": "train", "step": 1, "epoch": 0.1, "loss": None, "error": 1.0, "images_per_s": 5.0,
             "data_wait": 0.0, "lr_weights": 0.01, "lr_biases": 0.02}
        ) + "\n"
    )  # fmt: skip
    text = write_report(tmp_path, None, None, device="cpu", say=silent).read_text(encoding="utf-8")
    assert "No checkpoint was saved yet" in text and 'id="figure-error"' in text


def test_a_checkpoint_from_elsewhere_without_data_shows_its_kernels(hostile_run: Path, tmp_path: Path) -> None:
    file = next((hostile_run / "checkpoints").glob("step-*.pt"))
    copy = tmp_path / "net.pt"
    shutil.copy(file, copy)
    text = write_report(copy, None, None, device="cpu", say=silent).read_text(encoding="utf-8")
    assert "give its shards folder as DATA" in text and "Tower 1: mean color score" in text
    assert 'id="images"' not in text
    with_data = write_report(copy, hostile_run.parent / "shards", None, device="cpu", say=silent)
    assert 'id="neighbors"' in with_data.read_text(encoding="utf-8")


def test_data_without_a_validation_split_is_reported(hostile_run: Path, tmp_path: Path) -> None:
    shards = without_split("val", hostile_run.parent / "shards", tmp_path / "shards")
    text = write_report(hostile_run, shards, tmp_path / "r.html", device="cpu", say=silent).read_text(encoding="utf-8")
    assert "has no validation split" in text


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["report", "{tmp}/none"], "there is no such run or checkpoint", 2),
        (["report", "{tmp}"], "there is no run in it", 2),
        (["report", "{run}", "{tmp}"], "no shards folder", 2),
        (["report", "{run}", "--image", "{tmp}/none.jpg"], "there is no such file", 1),
        (["report", "{run}", "--out", "/proc/none/x.html"], "cannot be written", 1),
        (["report", "{run}", "--out", "{tmp}"], "is a folder", 1),
    ],
)
def test_wrong_use_gets_a_clear_message(
    arguments: list[str], message: str, code: int, hostile_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: Any) -> None:
        pytest.fail("minutes of work before the message")

    monkeypatch.setattr(report, "predict_split", too_late)
    words = [word.format(tmp=tmp_path, run=hostile_run) if "{" in word else word for word in arguments]
    outcome = CliRunner().invoke(group, words)
    assert message in str(outcome.exception) and getattr(outcome.exception, "exit_code", 0) == code
    assert not list(tmp_path.iterdir())


def test_data_of_other_classes_is_refused(small_run: Path, hostile_run: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(hostile_run.parent / "shards", shards)
    manifest = json.loads((shards / MANIFEST).read_text())
    manifest["classes"][0][0] = "another"
    (shards / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="class 0 is 'another'"):
        write_report(small_run, shards, tmp_path / "r.html", device="cpu", say=silent)


# ------------------------------------------------------------------ kernels


def test_the_color_score_of_made_up_kernels() -> None:
    edge = np.sign(np.arange(11) - 5.0)[None, None, :] * np.ones((3, 11, 1))
    assert color_score(edge) == 0
    opponent = np.stack([edge[0], -edge[0], 0 * edge[0]])
    assert color_score(opponent) == 1
    red = np.stack([edge[0], 0 * edge[0], 0 * edge[0]])
    assert color_score(red) == pytest.approx(2 / 3)
    assert color_score(np.zeros((3, 11, 11))) == 0
    noise = np.random.default_rng(0).standard_normal((200, 3, 11, 11))
    assert np.mean([color_score(kernel) for kernel in noise]) == pytest.approx(2 / 3, abs=0.01)
    assert color_score(1e-6 * red) == pytest.approx(color_score(red))


@pytest.mark.parametrize(("gray", "colored", "says"), [(0, 1, "tower 1 takes more"), (1, 0, "tower 0 takes more")])
def test_the_verdict_names_the_tower_of_color(gray: int, colored: int, says: str) -> None:
    random = np.random.default_rng(1)
    towers = np.empty((2, 48, 3, 11, 11))
    towers[gray] = random.standard_normal((48, 1, 11, 11)) + 0.1 * random.standard_normal((48, 3, 11, 11))
    towers[colored] = random.standard_normal((48, 3, 11, 11))
    assert says in kernels.verdict(kernels.sheets(towers.reshape(96, 3, 11, 11), 2))
    alike = random.standard_normal((96, 3, 11, 11))
    assert kernels.verdict(kernels.sheets(alike, 2)).startswith("No tower has taken the color")


def test_the_filmstrip_spreads_over_the_epochs_and_shows_what_changed() -> None:
    random = np.random.default_rng(2)
    initial = random.standard_normal((96, 3, 11, 11))
    step = np.zeros_like(initial)
    step[40:56] = 1
    history = {0: initial} | {epoch: initial + epoch * step for epoch in range(1, 91)}
    frames = kernels.filmstrip(history, initial, 2)
    assert [frame.epoch for frame in frames][::7] == [1, 90] and len(frames) == kernels.FILM_FRAMES
    assert [len(tower) for tower in frames[0].images] == [16, 16]
    assert kernels.filmstrip({0: initial}, initial, 2) == []


# ------------------------------------------------------------------ errors

LABELS = np.array([0, 0, 0, 1, 1, 2])
GUESSES = np.array([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1], [2, 0]])
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.65, 0.35], [0.55, 0.45], [1.0, 0.0]])


def made_up(labels: Ints, guesses: Ints, values: Floats, of_label: Floats, classes: int) -> Predictions:
    """Of first guesses that are no ties."""
    return Predictions(labels, guesses, values, of_label, 1.0 * (guesses[:, 0] == labels), classes, len(labels))


MADE_UP = made_up(LABELS, GUESSES, PROBABILITIES, PROBABILITIES[:, 0], 4)


def test_confusions_against_counting_by_hand() -> None:
    assert confusion_matrix(MADE_UP).tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert [(item.label, item.images, item.errors) for item in class_errors(MADE_UP)] == [
        (0, 3, 2),
        (1, 2, 1),
        (2, 1, 0),
    ]
    first, second = worst_confusions(MADE_UP)
    assert (first.label, first.guess, first.count, first.example) == (0, 1, 2, 2)
    assert first.share == pytest.approx(2 / 3)
    assert (second.label, second.guess, second.count) == (1, 0, 1)
    assert MADE_UP.top1_error == pytest.approx(0.5)


def test_calibration_against_counting_by_hand() -> None:
    bins, error = calibration(MADE_UP)
    assert [(item.low, item.images, item.accuracy) for item in bins] == [
        (0.5, 1, 0.0), (0.6, 1, 1.0), (0.8, 1, 0.0), (0.9, 3, pytest.approx(2 / 3)),
    ]  # fmt: skip
    expected = (0.55 + 0.35 + 0.8 + 3 * abs(2 / 3 - (0.9 + 0.95 + 1.0) / 3)) / 6
    assert error == pytest.approx(expected)


@pytest.mark.parametrize(("right", "wrong", "expected"), [(10, 10, 4), (10, 1, 1), (0, 10, 8), (2, 3, 3)])
def test_examples_are_right_and_wrong_ones(right: int, wrong: int, expected: int) -> None:
    labels = np.arange(right + wrong) % 3
    guesses = np.stack([np.where(np.arange(right + wrong) < right, labels, (labels + 1) % 3), (labels + 2) % 3], 1)
    values = np.full((right + wrong, 2), [0.7, 0.3])
    chosen = choose_examples(made_up(labels, guesses, values, values[:, 0], 3), 8)
    assert len(chosen) == len(set(chosen)) == min(8, right + wrong)
    assert sum(place >= right for place in chosen) == expected


def test_shards_of_another_user_are_left_out_of_the_page(hostile_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(path: Path, real: Any = Path.exists) -> bool:
        if path.name == MANIFEST:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return bool(real(path))

    monkeypatch.setattr(Path, "exists", exists)
    subject = find_subject(hostile_run, None, torch.device("cpu"))
    assert subject.dataset is None
    assert "Permission denied" in subject.without_data and "as DATA" in subject.without_data


@pytest.mark.parametrize("tie", [0.0, 1.0], ids=["all alike", "as the network says"])
def test_the_page_counts_ties_as_the_evaluation_does(hostile_run: Path, tie: float) -> None:
    """In bfloat16 two classes often share the first place."""
    trained = load_trained(hostile_run, torch.device("cpu"), choose_precision(torch.device("cpu"), "fp32"))
    with torch.no_grad():
        trained.predictor.weights["fc8.bias"].mul_(tie)
        trained.predictor.weights["fc8.weight"].mul_(tie)
    dataset = find_subject(hostile_run, None, torch.device("cpu")).dataset
    assert dataset is not None
    predictions = predict_split(trained, dataset, "val", torch.float32, 10_000, silent)
    means = mean_to_subtract(trained.checkpoint.mean)
    loader = EvaluationLoader(dataset, batch_size=16, device=torch.device("cpu"), dtype=torch.float32, mean=means)
    assert predictions.top1_error == pytest.approx(evaluate([trained.predictor], loader, num_views=1).top1_error)
    assert sum(item.errors for item in class_errors(predictions)) == pytest.approx(
        predictions.top1_error * len(predictions.labels)
    )
    if not tie:
        assert predictions.top1_error == pytest.approx(1 - 1 / predictions.num_classes) and not predictions.right.any()


def test_long_curves_are_thinned_by_means_and_keep_their_gaps() -> None:
    x = list(range(1000))
    y: list[float | None] = [float(value) for value in x]
    y[500] = None
    points = charts.thinned(charts.Series("a", x, y))
    assert len(points) <= charts.MOST_POINTS
    assert [points[0], points[-1]] == [(2, 1.0), (999, 999.0)]
    gaps = [place for place, value in points if value is None]
    assert gaps == [500]


@pytest.mark.parametrize(("classes", "matrix", "bars"), [(2, True, 2), (1000, False, 20)])
def test_statistics_of_two_classes_and_of_a_thousand(classes: int, matrix: bool, bars: int) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 3)
    guesses = np.stack([random.permutation(classes)[: min(5, classes)] for _ in labels])
    values = -np.sort(-random.dirichlet(np.ones(guesses.shape[1]), len(labels)), axis=1)
    parts = report.Parts()
    predictions = made_up(labels, guesses, values, values[:, 0], classes)
    report.add_statistics(parts, predictions, [f"class {number}" for number in range(classes)])
    assert ("confusion" in parts.charts) == matrix
    assert len(parts.charts["classes"]["data"]["values"]) == bars
    errors = [row["error"] for row in parts.charts["classes"]["data"]["values"]]
    assert errors == sorted(errors, reverse=True)


def test_the_confusion_matrix_has_a_column_for_a_class_that_was_never_guessed() -> None:
    names = ["never guessed", "a", "b"]
    chart = charts.heat_map([{"label": "never guessed", "guess": "a", "count": 1, "share": 1.0}], names)
    assert chart["encoding"]["x"]["scale"]["domain"] == chart["encoding"]["y"]["scale"]["domain"] == names


@pytest.mark.parametrize("any_right", [True, False])
def test_the_layers_show_the_weights_and_the_true_class_of_the_page(
    hostile_run: Path, tmp_path: Path, any_right: bool
) -> None:
    """Also where the run has deleted that checkpoint since, and where no image was named right."""
    run = tmp_path / "run"
    shutil.copytree(hostile_run, run)
    subject = find_subject(run, None, torch.device("cpu"))
    shutil.rmtree(run / "checkpoints")
    assert subject.trained is not None and subject.dataset is not None
    samples = subject.dataset.split("val").samples
    found = read_places(subject.dataset, "val", range(samples))
    classes, true = len(subject.dataset.classes), np.array([found[place].label for place in range(samples)])
    first = true if any_right else (true + 1) % classes
    guesses = np.stack([first, (first + 1) % classes], 1)
    values = np.full((samples, 2), [0.7, 0.3])
    parts = report.Parts()
    parts.predictions = made_up(true, guesses, values, np.linspace(0.9, 0.1, samples), classes)
    report.add_look(parts, subject, None, torch.device("cpu"))
    assert parts.look is not None
    chosen = int(np.abs(parts.predictions.of_label - report.HALF_SURE).argmin()) if any_right else 0
    assert parts.look.label == shown_labels(subject.trained)[true[chosen]]
    assert ("names right" in parts.look.caption) == any_right and ("names wrong" in parts.look.caption) != any_right
