"""Evaluation on a part of the classes, against numpy: maps, errors among some classes and all, errors by class."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch

from alexnet_fast.commands.eval_command import command
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.inference.class_map import MATCH, ClassMap, ClassTally, read_class_map
from alexnet_fast.network.model import AlexNet, whole_state
from alexnet_fast.pipelines.batch import EvaluationBatch
from alexnet_fast.runs.checkpoint import Checkpoint, Mean, save_checkpoint
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.errors import UsageError

NETWORK = [f"n{number}" for number in range(20)]


def test_classes_of_the_same_name_are_matched() -> None:
    assert read_class_map(MATCH, ["n3", "unknown", "n1"], NETWORK) == ClassMap((3, -1, 1))
    assert read_class_map(MATCH, ["n3", "unknown", "n1"], NETWORK).among == [1, 3]
    with pytest.raises(UsageError, match=r"the data's classes \('x'\) are none of the network's"):
        read_class_map(MATCH, ["x"], NETWORK)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("a\tn5\nc\t7\n", (5, -1, 7)),  # a name, and an index
        ('a,n5\n"b",n5\n\n', (5, 5, -1)),  # two of one
        ("n2\n", None),
        ("a,n50\n", "line 1: the network has no class 'n50'; did you mean"),
        ("a,n5\nd,n5\n", "line 2: the data has no class 'd'"),
        ("a,n5\na,n6\n", "line 2: 'a' is listed twice"),
        ("a,n5,n6\n", "3 columns"),
        ("", "lists no class"),
    ],
)
def test_a_file_says_which_class_is_which(text: str, targets: object, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(text)
    data = ["a", "n2", "c"] if targets is None else ["a", "b", "c"]
    if isinstance(targets, str):
        with pytest.raises(UsageError, match=targets):
            read_class_map(str(tmp_path / "map"), data, NETWORK)
    else:
        expected = targets if targets is not None else (-1, 2, -1)
        assert read_class_map(str(tmp_path / "map"), data, NETWORK).targets == expected
    with pytest.raises(UsageError, match="there is no such file"):
        read_class_map(str(tmp_path / "none"), data, NETWORK)


@pytest.mark.parametrize(
    ("content", "targets"),
    [
        (b"\xef\xbb\xbfa,n5\r\nb,n6\r\n", (5, 6, -1, -1, -1)),  # a spreadsheet on Windows
        (b" a , n5\n", (5, -1, -1, -1, -1)),
        (b'" two ",n5\n"x, y",n6\n"t\tz",n7\n', (-1, -1, 5, 6, 7)),  # names with spaces, a comma, a tab
        (b' two \tn5\nx, y\tn6\n"t\tz"\tn7\n', (-1, -1, 5, 6, 7)),
    ],
)
def test_every_name_can_be_listed_as_spreadsheets_write_it(content: bytes, targets: object, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_bytes(content)
    data = ["a", "b", " two ", "x, y", "t\tz"]
    assert read_class_map(str(tmp_path / "map.csv"), data, NETWORK).targets == targets


def test_a_number_is_no_index_where_classes_are_called_by_numbers(tmp_path: Path) -> None:
    """Sorted by name, "10" is the class after "1": as a name and as an index a number means two classes."""
    network = sorted(str(number) for number in range(1, 11))
    (tmp_path / "map").write_text("a,1\nb,10\n")
    assert read_class_map(str(tmp_path / "map"), ["a", "b"], network).targets == (0, 1)
    (tmp_path / "map").write_text("a,0\nb,1\n")
    with pytest.raises(UsageError, match=r"line 1: .* no class '0', and its classes are called by numbers themselves"):
        read_class_map(str(tmp_path / "map"), ["a", "b"], network)


def test_the_line_of_a_mistake_is_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "map").write_text('\n\n"a",n5\n\n"lost"\n')
    with pytest.raises(UsageError, match="line 5: the data has no class 'lost'"):
        read_class_map(str(tmp_path / "map"), ["a"], NETWORK)


def test_images_of_other_classes_are_left_out() -> None:
    labels = torch.tensor([0, 1, 2, 1, 0])
    images = torch.arange(5.0)
    batch = EvaluationBatch(lambda number: images + 10 * number, labels, torch.arange(5))
    (chosen,) = ClassMap((4, -1, 9)).batches([batch, EvaluationBatch(batch.cut_view, torch.ones(5).long(), labels)])
    assert chosen.labels.tolist() == [4, 9, 4] and chosen.indices.tolist() == [0, 2, 4]
    assert chosen.cut_view(1).tolist() == [10, 12, 14]
    with pytest.raises(UsageError, match="no image of the classes"):
        list(ClassMap((4, -1, 9)).batches([EvaluationBatch(batch.cut_view, torch.ones(5).long(), labels)]))


def test_errors_among_some_classes_are_numpys(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(20), size=200)
    among = [1, 3, 4, 8, 9, 15, 19]
    labels = generator.choice(among, 200)
    tally = ClassTally(20, among)
    for part in (slice(0, 120), slice(120, 200)):
        tally.observe(torch.from_numpy(probabilities[part]), torch.from_numpy(labels[part]))
    chosen = probabilities[:, among] / probabilities[:, among].sum(1, keepdims=True)
    order = np.array(among)[np.argsort(-chosen, axis=1)]
    wrong1, wrong5 = order[:, 0] != labels, (order[:, :5] != labels[:, None]).all(1)
    of_label = chosen[np.arange(200), np.searchsorted(among, labels)]
    result = tally.result("fp32")
    assert result.num_samples == 200 and result.top1_error == pytest.approx(wrong1.mean())
    assert result.top5_error == pytest.approx(wrong5.mean()) and 0 < wrong5.mean() < wrong1.mean()
    assert result.loss == pytest.approx(-np.log(of_label).mean())
    tally.write_csv(tmp_path / "classes.csv", [(f"n{number}", f"thing, {number}") for number in range(20)])
    rows = list(csv.DictReader((tmp_path / "classes.csv").open()))
    assert [int(row["index"]) for row in rows] == among and rows[1]["label"] == "thing, 3"
    for row in rows:
        own = labels == int(row["index"])
        assert int(row["images"]) == own.sum()
        assert float(row["top1_error"]) == pytest.approx(wrong1[own].mean(), abs=1e-5)
        assert float(row["top5_error"]) == pytest.approx(wrong5[own].mean(), abs=1e-5)


def test_where_nothing_is_left_for_the_classes_the_guess_is_one_by_chance() -> None:
    """The probability of another class is 1, as float32 rounds it."""
    tally = ClassTally(10, range(1, 8))
    tally.observe(torch.eye(10)[:1], torch.tensor([3]))
    result = tally.result("fp32")
    assert (result.top1_error, result.top5_error) == pytest.approx((6 / 7, 2 / 7))
    assert result.loss == pytest.approx(-np.log(1e-30))  # as `evaluate` counts a probability of 0


def test_json_of_what_overflows_has_no_nan(tiny_dataset: Dataset, tiny_shards: Path, tmp_path: Path) -> None:
    recipe = load_recipe("2013", ["width_divisor=16", "mean=rgb"])
    classes = tuple((entry.name, entry.label) for entry in tiny_dataset.classes)
    start = whole_state(AlexNet(recipe.architecture(len(classes))))
    tensors = {name: torch.full_like(value, 1e30) for name, value in start.items()}
    mean = Mean("rgb", None, torch.full((3,), 120.0))
    file = tmp_path / "net.pt"
    save_checkpoint(
        file,
        Checkpoint(recipe, classes, "f", ImageOptions(), mean, tensors, None, 1, 1, (), {}, None, None, Totals("")),
    )
    asked = [str(file), str(tiny_shards), "--views", "1", "--device", "cpu", "--precision", "fp32", "--json"]
    done = click.testing.CliRunner().invoke(command, asked, catch_exceptions=False)
    result = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert result["loss"] is None and result["top1_error"] == 1.0


def test_eval_of_a_larger_network_on_a_subset(tiny_dataset: Dataset, tiny_shards: Path, tmp_path: Path) -> None:
    """As a network of ImageNet's 1,000 classes on ImageNet-R: the data has ten of the network's classes, reversed."""
    recipe = load_recipe("2013", ["width_divisor=16", "mean=rgb"])
    names = [f"other {number}" for number in range(5)] + [entry.name for entry in reversed(tiny_dataset.classes)]
    classes = tuple((name, name) for name in names)
    model = AlexNet(recipe.architecture(len(classes)))
    model.initialize(0)
    tensors = whole_state(model)
    tensors["fc8.bias"][:5] = 9.0  # the classes that are not there win where they may
    tensors["fc8.bias"][14] = 5.0  # then the data's first class
    mean = Mean("rgb", None, torch.full((3,), 120.0))
    file = tmp_path / "net.pt"
    save_checkpoint(
        file,
        Checkpoint(recipe, classes, "f", ImageOptions(), mean, tensors, None, 1, 1, (), {}, None, None, Totals("")),
    )
    options = ["--views", "1", "--device", "cpu", "--precision", "fp32", "--json"]
    asked = [str(file), str(tiny_shards), *options, "--classes", MATCH, "--per-class", str(tmp_path / "classes.csv")]
    done = click.testing.CliRunner().invoke(command, asked, catch_exceptions=False)
    result = json.loads(done.stdout)
    assert result["num_samples"] == 30 and result["top1_error"] == 1.0
    assert result["among"]["classes"] == 10 and result["among"]["top1_error"] == pytest.approx(0.9)
    rows = {row["class"]: float(row["top1_error"]) for row in csv.DictReader((tmp_path / "classes.csv").open())}
    assert rows == {entry.name: float(index != 0) for index, entry in enumerate(tiny_dataset.classes)}
    with pytest.raises(UsageError, match="10 classes"):
        click.testing.CliRunner().invoke(command, [str(file), str(tiny_shards), *options], catch_exceptions=False)
