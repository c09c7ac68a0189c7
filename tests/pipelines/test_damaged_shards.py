"""Shards that are not what the manifest says: refused before the first batch, or named when they stop the run."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.commands.main import main
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError

CPU = torch.device("cpu")


def training(folder: Path) -> TrainingLoader:
    return TrainingLoader(Dataset.load(folder), batch_size=4, device=CPU, seed=0, options=LoaderOptions(1))


def evaluation(folder: Path) -> EvaluationLoader:
    return EvaluationLoader(Dataset.load(folder), split="train", batch_size=10, device=CPU, options=LoaderOptions(1))


@pytest.fixture
def copied(tiny_shards: Path, tmp_path: Path) -> Path:
    """Shards that a test may damage: training samples 25, 25 and 9."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def half(index: Path) -> None:
    """An index of half its samples, with a header that promises them all."""
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[: len(lines) // 2]))


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("train-000001.tar", Path.unlink),
    "short": ("train-000001.tar", lambda tar: os.truncate(tar, tar.stat().st_size - 512)),
    "long": ("train-000001.tar", lambda tar: os.truncate(tar, tar.stat().st_size + 512)),
    "no index": ("train-000001.idx", Path.unlink),
    # DALI crashes where an index points behind its tar's end, and wraps where it lists too few.
    "another's index": ("train-000001.idx", lambda index: shutil.copy(index.with_name("train-000000.idx"), index)),
    "half an index": ("train-000001.idx", half),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("loader", [training, evaluation])
def test_a_damaged_folder_is_refused_before_the_first_batch(
    copied: Path, damage: str, loader: Callable[[Path], object]
) -> None:
    name, inflict = DAMAGES[damage]
    inflict(copied / name)
    with pytest.raises(UserError, match=rf"{name}: .*alexnet-fast shard"):
        loader(copied)


def test_training_does_not_look_at_the_other_split(copied: Path) -> None:
    (copied / "val-000000.tar").unlink()
    training(copied)
    with pytest.raises(UserError, match=r"val-000000\.tar"):
        Dataset.load(copied).check_sizes()


def test_a_manifest_that_miscounts_is_noticed(copied: Path) -> None:
    dataset = Dataset.load(copied)
    train = dataset.splits["train"]
    shards = (replace(train.shards[0], samples=train.shards[0].samples - 1), *train.shards[1:])
    wrong = replace(dataset, splits={**dataset.splits, "train": replace(train, samples=58, shards=shards)})
    streams = (
        TrainingLoader(wrong, batch_size=4, device=CPU, seed=0, options=LoaderOptions(1)).epoch(0),
        iter(EvaluationLoader(wrong, split="train", batch_size=10, device=CPU, options=LoaderOptions(1))),
    )
    for stream in streams:
        with pytest.raises(UserError, match=r"list 59 samples, dataset\.json says 58.*alexnet-fast verify"):
            next(stream)


def altered(copied: Path, label: bytes = b"99999") -> Path:
    """A tar whose first label is another, its size and index as before."""
    tar = copied / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[512:517] = label
    tar.write_bytes(content)
    return tar


@pytest.mark.parametrize("loader", [lambda folder: training(folder).epoch(0), evaluation])
@pytest.mark.parametrize(
    # By its letters the last would be class 9.
    ("label", "words"),
    [(b"99999", "label 99999.* 10 classes"), (b"000/C", "label is not a number")],
)
def test_a_label_that_is_no_class_stops(
    copied: Path, loader: Callable[[Path], Iterable[object]], label: bytes, words: str
) -> None:
    altered(copied, label)
    with pytest.raises(UserError, match=rf"{words}.*alexnet-fast verify"):
        for _ in loader(copied):
            pass


def test_train_checks_hashes_when_asked(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(dataset: Dataset, *_: object, **__: object) -> dict[str, object]:
        trained.append(dataset.folder)
        splits = {"recipe": {"val_split": "val"}, "final_split": "val"}
        return {"steps": 1, "epochs": 1, "images_per_s": None, **splits}

    monkeypatch.setattr("alexnet_fast.training.run.train", train)
    words = ["train", str(copied), "--check-hashes", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert (ended.value.code, trained) == (0, [copied])
    tar = altered(copied)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert (ended.value.code, trained) == (1, [copied])
    message = capsys.readouterr().err
    assert f"{tar}: is not what was written (sha256 differs), and 1 more. Nothing was trained" in message


def test_an_image_that_cannot_be_decoded_is_named(copied: Path) -> None:
    tar = copied / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    start = content.index(b"\xff\xd8\xff")
    content[start : start + 600] = bytes(600)
    tar.write_bytes(content)
    with tarfile.open(tar) as opened:
        stem = Path(opened.getnames()[1]).stem
    for stream in (training(copied).epoch(0), iter(evaluation(copied))):
        with pytest.raises(UserError, match=rf"train-000000\.tar: {stem} .*verify"):
            for _ in stream:
                pass


@pytest.mark.parametrize("loader", [lambda folder: training(folder).epoch(0), evaluation])
def test_an_image_of_another_size_is_named(copied: Path, loader: Callable[[Path], Iterable[object]]) -> None:
    """One whose header tells fewer pixels can be decoded, and is no image of this data set."""
    tar = copied / "train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b"\x11\x08\x01\x00\x01\x00", b"\x11\x08\x00\x80\x01\x00", 1))  # height 128
    with tarfile.open(tar) as opened:
        stem = Path(opened.getnames()[1]).stem
    with pytest.raises(UserError, match=rf"train-000000\.tar: {stem} \(it has 256×128 pixels, not 256×256\).*verify"):
        for _ in loader(copied):
            pass


@pytest.mark.parametrize("left", [0, 10])
def test_zeros_in_the_place_of_a_tar_are_named(copied: Path, left: int) -> None:
    """Of a disk that lost what was written: zeros are a tar's end, so that what is left is a tar."""
    tar = copied / "train-000001.tar"
    with tarfile.open(tar) as opened:
        end = opened.getmembers()[2 * left].offset
    tar.write_bytes(tar.read_bytes()[:end] + bytes(tar.stat().st_size - end))
    for stream in (training(copied).epoch(0), iter(evaluation(copied))):
        with pytest.raises(UserError, match=rf"train-000001\.tar: holds {left} samples, its index lists 20\."):
            for _ in stream:
                pass
