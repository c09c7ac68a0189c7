"""The preview, and shards that the network cannot take."""

from __future__ import annotations

import shutil
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch

from alexnet_fast.commands.main import main
from alexnet_fast.demo.data import DemoData, draw_dataset
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.preview import contact_samples, draw_preview
from alexnet_fast.tools.dataset import Dataset, DatasetClass, ImageOptions
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.errors import UsageError, UserError
from tests.tools.shard_helpers import run


@pytest.fixture(scope="module")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Shards of images one pixel smaller than the network's input."""
    folder = tmp_path_factory.mktemp("small")
    draw_dataset(folder / "images", DemoData(num_train=4, num_val=1))
    return run(folder / "images", folder / "shards", image_options=ImageOptions(size=223)).dataset


def test_images_smaller_than_the_networks_input_are_refused(small_images: Dataset, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(UsageError, match="223×223 pixels, and the network takes 224×224"):
        TrainingLoader(small_images, batch_size=4, device=cpu, seed=0)
    with pytest.raises(UsageError, match="223×223 pixels"):
        EvaluationLoader(small_images, batch_size=4, device=cpu)
    with pytest.raises(UsageError, match="223×223 pixels"):
        draw_preview(small_images, tmp_path / "preview.png")


def zeros(tar: Path, first: tarfile.TarInfo) -> None:
    tar.write_bytes(bytes(tar.stat().st_size))


def no_header(tar: Path, first: tarfile.TarInfo) -> None:
    tar.write_bytes(b"x" * 512 + tar.read_bytes()[512:])


def no_class(tar: Path, first: tarfile.TarInfo) -> None:
    content = tar.read_bytes()
    tar.write_bytes(content[:512] + b"99999" + content[517:])


def no_image(tar: Path, first: tarfile.TarInfo) -> None:
    content = tar.read_bytes()
    start, end = first.offset_data, first.offset_data + first.size
    tar.write_bytes(content[:start] + bytes(end - start) + content[end:])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (zeros, "holds 0 samples"),
        (no_header, "is no tar"),
        (no_class, "{stem} has label 99999, of 10 classes"),
        (no_image, "{stem} "),
    ],
)
def test_an_altered_tar_is_named(
    damage: Callable[[Path, tarfile.TarInfo], None], words: str, tiny_shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    tar = folder / "train-000000.tar"
    with tarfile.open(tar) as opened:
        first = opened.getmembers()[1]
    damage(tar, first)
    expected = rf"train-000000\.tar: {words.format(stem=Path(first.name).stem)}.*`alexnet-fast verify` lists"
    with pytest.raises(UserError, match=expected):
        draw_preview(Dataset.load(folder), tmp_path / "preview.png")
    assert not (tmp_path / "preview.png").exists()


def test_preview_says_at_once_what_it_does(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(*_: object) -> None:
        assert capsys.readouterr().err == f"Drawing what is in {tiny_shards} …\n"

    monkeypatch.setattr("alexnet_fast.pipelines.preview.draw_preview", draw)
    with pytest.raises(SystemExit) as ended:
        main(["preview", str(tiny_shards), "--out", str(tmp_path / "preview.png")])
    assert not ended.value.code


def test_a_stopped_preview_leaves_nothing(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(figure: object, file: IO[bytes], **_: object) -> None:
        file.write(b"half an image")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", stop)
    with pytest.raises(SystemExit) as ended:
        main(["preview", str(tiny_shards), "--out", str(tmp_path / "preview.png")])
    assert ended.value.code == 130 and "Stopped; nothing was written." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


ODD_NAMES = [
    "$x_{$",
    "a$b",
    "$",
    "two\nlines",
    "\x1b[31mred\x1b[0m",
    "tab\there",
    "\udcff",
    "猫",
    r"\alpha",
    "under_score",
]


def test_class_names_are_shown_as_they_are(tiny_dataset: Dataset, tmp_path: Path) -> None:
    odd = replace(tiny_dataset, classes=tuple(DatasetClass(name, name) for name in ODD_NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_preview(odd, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 100_000
    message = describe(replace(odd, classes=odd.classes[3:]))
    assert r"(two\nlines, \x1b[31mred\x1b[0m, tab\there, \udcff, 猫, \alpha, …)" in message
    assert all(line.isprintable() for line in message.split("\n"))


def test_the_contact_sheet_has_no_holes(tiny_dataset: Dataset) -> None:
    sheet = contact_samples(tiny_dataset, "train", 12)
    assert len({sample.stem for sample in sheet}) == 12
    assert {sample.label for sample in sheet} == set(range(10))
