"""Other people's programs read our shards: webdataset, DALI with either index, timm's info file, tar, file."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_fast.tools.dataset import Dataset, DatasetClass
from alexnet_fast.tools.sharding.other_readers import dataset_card

SPLITS = ("train", "val")


def members(dataset: Dataset, split: str) -> dict[str, tuple[bytes, int]]:
    """Stem -> (JPEG, label), read with the standard library alone."""
    found: dict[str, tuple[bytes, int]] = {}
    for path in dataset.tars(split):
        with tarfile.open(path, "r:") as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, jpeg in content.items():
            stem, _, key = name.partition(".")
            if key == "jpg":
                assert stem not in found
                found[stem] = (jpeg, int(content[f"{stem}.cls"]))
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_webdataset_reads_every_sample_once(tiny_dataset: Dataset, split: str) -> None:
    import webdataset

    urls = [str(path) for path in tiny_dataset.tars(split)]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "cls"))
    expected = members(tiny_dataset, split)
    assert len(read) == len(expected) == tiny_dataset.splits[split].samples
    assert {key: label for key, _, label in read} == {stem: label for stem, (_, label) in expected.items()}
    for key, image, _ in read:
        side = tiny_dataset.image_options.size
        assert (image.mode, image.size) == ("RGB", (side, side))
        assert image.tobytes() == Image.open(io.BytesIO(expected[key][0])).tobytes()


def dali_samples(tars: list[Path], indexes: list[Path], num_samples: int) -> list[tuple[bytes, int]]:
    """What DALI's own reader gives in one epoch, in order."""
    dali = pytest.importorskip("nvidia.dali")

    @dali.pipeline_def(batch_size=num_samples, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        jpeg, label = dali.fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path) for path in indexes],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
            name="reader",
        )
        return jpeg, label

    built = pipeline()
    built.build()
    assert built.reader_meta("reader")["epoch_size"] == num_samples
    jpegs, labels = built.run()
    return [(bytes(jpegs.at(number)), int(bytes(labels.at(number)))) for number in range(num_samples)]


def made_by_dali(tars: list[Path], folder: Path) -> list[Path]:
    """Indexes made by DALI's wds2idx."""
    script = shutil.which("wds2idx", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("DALI's wds2idx is not installed")
    indexes = [folder / f"{path.stem}.idx" for path in tars]
    for path, index in zip(tars, indexes, strict=True):
        subprocess.run([sys.executable, script, str(path), str(index)], check=True, capture_output=True)
    return indexes


@pytest.mark.parametrize("split", SPLITS)
def test_dali_reads_the_same_with_its_index_as_with_ours(tiny_dataset: Dataset, split: str, tmp_path: Path) -> None:
    tars, expected = tiny_dataset.tars(split), members(tiny_dataset, split)
    ours = dali_samples(tars, tiny_dataset.indexes(split), len(expected))
    theirs = dali_samples(tars, made_by_dali(tars, tmp_path), len(expected))
    assert ours == theirs == list(expected.values())


def test_timm_finds_splits_and_their_lengths(tiny_dataset: Dataset) -> None:
    # The keys that timm/data/readers/reader_wds.py takes from `_info.json`; it falls back, with a warning, without it.
    info = json.loads((tiny_dataset.folder / "_info.json").read_bytes())
    assert set(info["splits"]) == {*SPLITS, "validation"}
    assert info["splits"]["validation"] == info["splits"]["val"] | {"name": "validation"}  # what timm's scripts ask for
    for split, described in info["splits"].items():
        assert described["name"] == split
        samples = members(tiny_dataset, "val" if split == "validation" else split)
        assert described["num_samples"] == sum(described["shard_lengths"]) == len(samples)
        for name, length in zip(described["filenames"], described["shard_lengths"], strict=True):
            with tarfile.open(tiny_dataset.folder / name) as tar:
                assert sum(member.name.endswith(".jpg") for member in tar) == length


def test_the_card_names_the_classes_whatever_they_are_called(tiny_dataset: Dataset) -> None:
    yaml = pytest.importorskip("yaml")
    names = ["no", "1e3", "crane", "crane", 'a "b": {c}', "- é\u2028\n", "caf\udce9", "'", "#"]
    classes = tuple(DatasetClass(f"n{number:08d}", name) for number, name in enumerate(names))
    _, front, body = dataset_card(replace(tiny_dataset, classes=classes)).decode().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["configs"][0]["data_files"] == [
        {"split": "train", "path": "train-*.tar"},
        {"split": "validation", "path": "val-*.tar"},
    ]
    features = {feature["name"]: feature["dtype"] for feature in card["dataset_info"]["features"]}
    found = features["cls"]["class_label"]["names"]
    expected = [*names[:2], "crane (n00000002)", "crane (n00000003)", *names[4:6], r"caf\udce9", *names[7:]]
    assert [found[str(number)] for number in range(len(names))] == expected
    assert features["jpg"] == "image" and "load_dataset" in body


def test_hugging_face_reads_splits_and_class_names(tiny_dataset: Dataset, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset(str(tiny_dataset.folder), cache_dir=str(tmp_path))
    for ours, theirs in (("train", "train"), ("val", "validation")):
        samples = members(tiny_dataset, ours)
        assert read[theirs].features["cls"].names == [entry.label for entry in tiny_dataset.classes]
        assert {row["__key__"]: row["cls"] for row in read[theirs]} == {
            key: label for key, (_, label) in samples.items()
        }


@pytest.mark.parametrize("split", SPLITS)
def test_tar_lists_pairs_of_plain_files(tiny_dataset: Dataset, split: str) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar on this machine")
    for path in tiny_dataset.tars(split):
        listed = subprocess.run(["tar", "tvf", str(path)], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        lines = [line.split() for line in listed.stdout.splitlines()]
        assert all(len(line) == 6 and line[0].startswith("-") for line in lines)  # plain files, no space in a name
        names = [line[-1] for line in lines]
        assert names == [
            f"{name.partition('.')[0]}.{key}"
            for name, key in zip(names, ["cls", "jpg"] * (len(names) // 2), strict=True)
        ]
        assert names[0::2] == [name.replace(".jpg", ".cls") for name in names[1::2]]


def test_file_knows_tars_and_baseline_jpegs(tiny_dataset: Dataset, tmp_path: Path) -> None:
    if shutil.which("file") is None:
        pytest.skip("no file(1) on this machine")
    path = tiny_dataset.tars("train")[0]
    (tmp_path / "image").write_bytes(next(iter(members(tiny_dataset, "train").values()))[0])
    kinds = subprocess.run(
        ["file", "--brief", str(path), str(tmp_path / "image")], capture_output=True, text=True, check=True
    )
    tar, jpeg = kinds.stdout.splitlines()
    assert "POSIX tar archive" in tar
    side = tiny_dataset.image_options.size
    assert jpeg.startswith("JPEG image data") and f"baseline, precision 8, {side}x{side}, components 3" in jpeg
