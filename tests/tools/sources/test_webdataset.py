"""Other people's WebDataset tars."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sources.find import Source, find_source, read_bytes
from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes, validation_labels
from tests.tools.fake_sources import WNIDS, jpeg, tar_bytes, tar_member, tar_of, write_files


def found(source: Source) -> list[tuple[str, int, str, bytes]]:
    """(split, label, stem, content)"""
    table = source.table
    return [
        (source.splits[table.split[i]], int(table.label[i]), table.stem(i), read_bytes(table.location(i)))
        for i in range(len(table))
    ]


def test_as_timm_publishes_imagenet(tmp_path: Path) -> None:
    """Unpadded cls and json beside the jpg; names of the original files; splits in the tars' names."""
    index = classes_by_wnid()[WNIDS[1]].index
    label = int(validation_labels()[2])
    other = f"{imagenet_classes()[label].wnid}_6"
    train = {f"{WNIDS[1]}_5.jpg": jpeg(1), f"{WNIDS[1]}_5.cls": str(index).encode(), f"{WNIDS[1]}_5.json": b"{}"}
    train |= {f"{other}.jpg": jpeg(3), f"{other}.cls": str(label).encode()}
    val = {"ILSVRC2012_val_00000003.jpg": jpeg(2), "ILSVRC2012_val_00000003.cls": str(label).encode()}
    write_files(
        tmp_path,
        {
            "imagenet1k-train-0000.tar": tar_bytes(train),
            "imagenet1k-validation-00.tar": tar_bytes(val),
            "_info.json": b"{}",
        },
    )
    source = find_source(tmp_path)
    assert source.kind == "webdataset"
    assert found(source) == [
        ("train", index, f"{WNIDS[1]}_5", jpeg(1)),
        ("train", label, other, jpeg(3)),
        ("val", label, "ILSVRC2012_val_00000003", jpeg(2)),
    ]
    assert source.classes[index].words == "crane"
    assert len(source.classes) == 1000
    assert source.table.origin(0) == f"imagenet1k-train-0000.tar!{WNIDS[1]}_5.jpg"


@pytest.mark.parametrize("extension", ["jpg", "png", "jpeg", "webp", "JPG", "image.jpg"])
def test_labels_in_json(tmp_path: Path, extension: str) -> None:
    long = {"caption": "x" * 2000, "label": 3}
    tar = {"d/a b.json": json.dumps(long).encode(), f"d/a b.{extension}": b"image"}
    tar |= {"d/c.json": b'{"label": "1"}', f"d/c.{extension}": b"other"}
    source = find_source(write_files(tmp_path, {"0.tar": tar_bytes(tar)}))
    assert [(row[1], row[3]) for row in found(source)] == [(3, b"image"), (1, b"other")]
    assert [entry.name for entry in source.classes] == ["0", "1", "2", "3"]
    assert any("called by their numbers" in note for note in source.notes)
    assert "No image has the label 0, 2 of 0 to 3." in source.warnings[0]


def test_labels_that_are_names(tmp_path: Path) -> None:
    tar = tar_bytes({"1.jpg": b"1", "1.cls": b"zebra\n", "2.jpg": b"2", "2.cls": b"n01440764"})
    source = find_source(write_files(tmp_path, {"train/0.tar": tar, "val/0.tar": tar}))
    assert [(entry.name, entry.words) for entry in source.classes] == [("n01440764", "tench"), ("zebra", "zebra")]
    assert [row[:2] for row in found(source)] == [("train", 1), ("train", 0), ("val", 1), ("val", 0)]
    assert len({row[2] for row in found(source)}) == 4


def test_what_is_not_used_is_mentioned(tmp_path: Path) -> None:
    tar = tar_bytes(
        {
            "1.jpg": b"1",
            "1.cls": b"0",
            "2.jpg": b"2",
            "2.txt": b"a caption",
            "3.jpg": b"3",
            "3.seg.png": b"4",
            "3.cls": b"1",
            "__meta__.json": b"{}",
            "5.cls": b"1",
        }
    )
    source = find_source(write_files(tmp_path, {"0.tar": tar}))
    assert len(source.table) == 2
    assert [(entry.count, entry.reason) for entry in source.unused] == [
        (1, "images besides the sample's own ('3.seg.png')"),
        (1, "images without a label ('2')"),
    ]


def test_data_that_is_in_no_sample_is_mentioned(tmp_path: Path) -> None:
    """An array in place of an image, a hidden image, an archive; an array beside an image belongs to it."""
    tar = {f"{i}.{end}": b"%d" % i for i in range(2) for end in ("jpg", "cls")} | {"0.npy": b"features"}
    tar |= {"5.npy": b"x", "5.cls": b"1", ".6.jpg": b"x", "d/.7.jpg": b"y", "more.zip": b"PK"}
    source = find_source(write_files(tmp_path, {"0.tar": tar_bytes(tar)}))
    assert len(source.table) == 2
    (entry,) = source.unused
    assert entry.count == 4 and "'5.npy', '.6.jpg', 'd/.7.jpg'" in entry.reason


def test_links_and_what_has_no_bytes(tmp_path: Path) -> None:
    tar = tar_of(
        [
            tar_member("1.jpg", b"one"),
            tar_member("1.cls", b"0"),
            tar_member("2.jpg", kind=tarfile.LNKTYPE, target="1.jpg"),
            tar_member("2.cls", b"1"),
            tar_member("3.jpg", kind=tarfile.SYMTYPE, target="/data/3.jpg"),
            tar_member("3.cls", b"1"),
            tar_member("4.jpg", kind=tarfile.FIFOTYPE),
            tar_member("5.jpg", b"five"),
            tar_member("5.cls", kind=tarfile.SYMTYPE, target="1.cls"),
            tar_member("6.cls", b"0"),
        ]
    )
    source = find_source(write_files(tmp_path, {"0.tar": tar}))
    assert [row[1:] for row in found(source)] == [(0, "1", b"one"), (1, "2", b"one"), (0, "5", b"five")]
    (lost,) = source.unused
    assert lost.count == 2 and "without bytes in the tar" in lost.reason and "'3.jpg', '4.jpg'" in lost.reason
    assert "Ignored: 1 label without an image." in source.notes


def test_wrong_input(tmp_path: Path) -> None:
    sample = tar_bytes({"1.jpg": b"1", "1.cls": b"0"})
    write_files(tmp_path, {"train-0.tar": sample, "other.tar": sample})
    with pytest.raises(UsageError, match=r"the tar 'other\.tar' names no split, but 'train-0\.tar' does"):
        find_source(tmp_path)
    with pytest.raises(UsageError, match="no sample with an image"):
        find_source(write_files(tmp_path / "a", {"0.tar": tar_bytes({"1.jpg": b"1"})}), "webdataset")
    with pytest.raises(UserError, match="the label 100000 is too large; labels may go up to 99,999"):
        find_source(write_files(tmp_path / "b", {"0.tar": tar_bytes({"1.jpg": b"1", "1.cls": b"100000"})}))
    long = {"0.tar": tar_bytes({"1.jpg": b"1", "1.cls": b"9" * 5000})}
    with pytest.raises(UserError, match=r"the label 9{40}… is too large; labels may go up to 99,999"):
        find_source(write_files(tmp_path / "long", long))
    for name, garbage in (("c", b"{"), ("d", b"[" * 100_000)):
        with pytest.raises(UserError, match=r"1\.json \(sample '1'\): is no JSON"):
            tar = tar_bytes({"1.jpg": b"1", "1.json": garbage, "2.jpg": b"2", "2.json": b'{"label": 1}'})
            find_source(write_files(tmp_path / name, {"0.tar": tar}))
    cut = tar_bytes({"1.jpg": b"1", "1.cls": b"0"})[:2048]
    with pytest.raises(UserError, match="without a tar's end mark"):
        find_source(write_files(tmp_path / "d", {"0.tar": cut}))


def test_tars_beside_class_folders(tmp_path: Path) -> None:
    """A tar that is no WebDataset does not hide the class folders beside it."""
    write_files(tmp_path, {"backup.tar": tar_bytes({"readme.txt": b""}), "cat/1.jpg": b"1", "dog/1.jpg": b"2"})
    assert find_source(tmp_path).kind == "folders"


@pytest.mark.parametrize("folders", [("train/cat", "train/dog", "val/cat"), ("cat", "dog")])
def test_stray_tars_beside_class_folders(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """Their names disagree about splits; both hold samples."""
    sample = tar_bytes({"1.jpg": b"1", "1.cls": b"0"})
    write_files(tmp_path, {"train-old.tar": sample, "backup.tar": sample})
    write_files(tmp_path, {f"{name}/1.jpg": b"1" for name in folders})
    if folders == ("cat", "dog"):
        with pytest.raises(UsageError, match="holds images in folders and WebDataset samples in"):
            find_source(tmp_path)
    source = find_source(tmp_path, None if folders[0] == "train/cat" else "folders")
    assert source.kind == "folders"
    assert [(entry.place, entry.count) for entry in source.unused] == [("backup.tar", 1), ("train-old.tar", 1)]


def test_labels_that_are_many_names(tmp_path: Path) -> None:
    words = [f"class {number}" for number in range(2_000)]
    tar = tar_bytes({f"{number}.{key}": content for number, word in enumerate(words)
                     for key, content in (("jpg", b""), ("cls", word.encode()))})  # fmt: skip
    source = find_source(write_files(tmp_path, {"train/0.tar": tar}))
    assert [entry.name for entry in source.classes] == sorted(words)
    assert [source.classes[label].name for label in source.table.label[:100].tolist()] == words[:100]


def test_half_a_character_in_json(tmp_path: Path) -> None:
    tar = tar_bytes(
        {"1.jpg": jpeg(1), "1.json": rb'{"label": "\ud800"}', "2.jpg": jpeg(2), "2.json": b'{"label": "b"}'}
    )
    source = find_source(write_files(tmp_path, {"0.tar": tar}))
    assert [entry.name for entry in source.classes] == [r"\ud800", "b"] and source.fingerprint()


def test_copies_of_a_tar_are_refused(tmp_path: Path) -> None:
    """As a second download leaves them; keys that begin anew in every tar are no copies."""

    def samples(first: int) -> bytes:
        return tar_bytes({f"{i}.{end}": b"%d" % (first + i % 2) for i in range(4) for end in ("jpg", "cls")})

    write_files(tmp_path, {"train-0.tar": samples(0), "train-1.tar": samples(1)})
    assert len(find_source(tmp_path).table) == 8
    write_files(tmp_path, {"train-0 (1).tar": samples(0)})
    with pytest.raises(UsageError, match=r"'train-0.tar' is a copy of 'train-0 \(1\).tar'"):
        find_source(tmp_path)
