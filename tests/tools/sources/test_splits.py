"""Splits found by the meaning of names, and refused where two readings remain."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.sources.find import Source, find_source
from alexnet_fast.tools.sources.imagenet import imagenet_classes, validation_labels
from alexnet_fast.tools.sources.splits import said
from tests.tools.fake_sources import tar_bytes, write_files


def counts(source: Source) -> dict[str, int]:
    return {split: int((source.table.split == number).sum()) for number, split in enumerate(source.splits)}


def names_of(source: Source) -> list[str]:
    return [entry.name for entry in source.classes]


def tree(*folders: str, each: int = 2) -> dict[str, bytes]:
    """Images in every one of these folders."""
    return {f"{folder}/{i}.jpg": f"{folder}{i}".encode() for folder in folders for i in range(each)}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train2017", "train"),
        ("ILSVRC2012_img_train", "train"),
        ("train_blurred", "train"),
        ("training_set", "train"),
        ("TrainImages", "train"),
        ("imagenet1k-validation-00", "val"),
        ("VALID", "val"),
        ("my.dev", "val"),
        ("valset", "val"),
        ("test-a", "test"),
        ("train_images_0", "train"),
        ("trainval", None),
        ("train_val", None),
        ("trains", None),
        ("latest", None),
        ("medieval", None),
        ("devil", None),
        ("n01440764", None),
    ],
)
def test_what_a_name_says(name: str, split: str | None) -> None:
    what = said(name.encode())
    assert (what.split if what else None) == split


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val", "val"),
        ("train_blurred", "val_blurred", "val"),
        ("training_set", "test_set", "test"),
        ("images/train", "images/val", "val"),
        ("imagenet/train", "imagenet/val", "val"),
        ("comp/ILSVRC/Data/CLS-LOC/train", "comp/ILSVRC/Data/CLS-LOC/val", "val"),
        ("TRAIN", "Validation", "val"),
        ("birds_train", "birds_test", "test"),
        ("train/train", "test/test", "test"),
        ("my_test_data/train", "my_test_data/dev", "val"),
        ("a/train", "b/valid", "val"),
        ("train_1", "eval", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("Training", "Testing", "test"),
    ],
)
def test_splits_by_meaning(tmp_path: Path, train: str, other: str, split: str) -> None:
    source = find_source(write_files(tmp_path, tree(f"{train}/cat", f"{train}/dog", f"{other}/cat", f"{other}/dog")))
    assert counts(source) == {"train": 4, split: 4}
    assert names_of(source) == ["cat", "dog"] and not source.unused


def test_splits_inside_the_classes(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, tree("cat/train", "cat/val", "dog/train", "dog/val/images")))
    assert counts(source) == {"train": 4, "val": 4} and names_of(source) == ["cat", "dog"]


def test_numbered_folders_of_one_split(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, tree("train_0/cat", "train_1/dog", "val/cat")))
    assert counts(source) == {"train": 4, "val": 2} and names_of(source) == ["cat", "dog"]


@pytest.mark.parametrize(
    "folders",
    [
        ("car", "train", "plane"),
        ("cat", "dog", "test"),
        ("cat", "dog", "val/cat", "val/dog"),
        ("foo/cat", "foo/dog", "bar/cat", "bar/dog"),
        ("train/cat", "train/dog", "dev/cat", "eval/cat"),
        ("cats_train", "cats_test", "dogs_train", "dogs_test"),
        ("images/train/a", "images/val/a", "masks/train/a", "masks/val/a"),
        ("a/train/x", "b/train/x", "b/val/x"),
        ("test_data/train/x", "test_data/train/y"),
        ("train/animals", "train/animals/cat", "train/animals/dog"),
        ("data_large/abbey", "data_large/beach", "val_large"),
        ("xray/train/a", "xray/test/a", "xray/xray/train/a", "xray/xray/test/a"),
    ],
)
def test_two_readings_are_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    write_files(tmp_path, tree(*folders))
    with pytest.raises(UsageError, match=r"--split|--labels"):
        find_source(tmp_path)


def test_classes_called_like_splits(tmp_path: Path) -> None:
    """Two of ImageNet's classes; they say more than a split's name, and nothing else says that they are splits."""
    source = find_source(write_files(tmp_path, tree("bullet train", "test tube", "dog")))
    assert counts(source) == {"train": 6} and names_of(source) == ["bullet train", "dog", "test tube"]
    assert any("'bullet train', 'test tube' is called as a split" in warning for warning in source.warnings)
    within = find_source(write_files(tmp_path / "in", tree("train/test tube", "train/dog", "val/test tube", "val/dog")))
    assert counts(within) == {"train": 4, "val": 4} and names_of(within) == ["dog", "test tube"]


@pytest.mark.parametrize("inner", ["", "/images", "/old", "/old/images"])
@pytest.mark.parametrize(
    ("split", "only"), [("val", "val d'or"), ("ValImages", "val d'or"), ("test", "test tube"), ("val", "test tube")]
)
def test_a_split_whose_only_class_is_called_like_it(tmp_path: Path, split: str, only: str, inner: str) -> None:
    """The class counts as in train, whatever folders its images lie in."""
    train = "TrainImages" if split == "ValImages" else "train"
    write_files(tmp_path, tree(f"{train}/{only}{inner}", f"{train}/dog{inner}", f"{split}/{only}{inner}"))
    source = find_source(tmp_path)
    nested = inner.replace("/images", "")
    assert names_of(source) == sorted([f"dog{nested}", f"{only}{nested}"]) and not source.unused
    name = "test" if split == "test" else "val"
    assert counts(source) == {"train": 4, name: 2}
    label = names_of(source).index(f"{only}{nested}")
    assert source.table.label[source.table.split == 1].tolist() == [label] * 2


def test_explicit_splits(tmp_path: Path) -> None:
    write_files(tmp_path, tree("foo/cat", "foo/dog", "bar/cat", "bar/dog", "extra/cow"))
    source = find_source(tmp_path, splits=["train=foo", f"validation={tmp_path}/bar"])
    assert counts(source) == {"train": 4, "val": 4} and names_of(source) == ["cat", "dog"]
    assert [(entry.place, entry.count) for entry in source.unused] == [("extra/cow", 2)]
    source = find_source(tmp_path, splits=["train=foo", "train=extra", "test=b?r"])
    assert counts(source) == {"train": 6, "test": 4}
    for wrong, message in (
        (["train=nowhere"], "no image lies under this path"),
        (["foo"], "must be NAME=PATH"),
        (["dogs=foo"], "must be NAME=PATH"),
        (["train=foo", "val=f*"], "both hold foo/cat"),
    ):
        with pytest.raises(UsageError, match=message):
            find_source(tmp_path, splits=wrong)


def test_explicit_splits_of_tars(tmp_path: Path) -> None:
    def samples(*labels: int) -> bytes:
        return tar_bytes({f"{i}.{end}": b"%d" % label for i, label in enumerate(labels) for end in ("jpg", "cls")})

    write_files(
        tmp_path, {"a-0.tar": samples(0, 1), "a-1.tar": samples(1, 0), "b.tar": samples(1, 1, 0), "c.tar": samples(0)}
    )
    source = find_source(tmp_path, splits=["train=a-*.tar", "val=b.tar"])
    assert counts(source) == {"train": 4, "val": 3}
    assert [entry.place for entry in source.unused] == ["c.tar"]


def test_validation_images_say_their_split(tmp_path: Path) -> None:
    """A folder full of them is the val split whatever it is called; their labels are built in."""
    wnids = [imagenet_classes()[label].wnid for label in validation_labels()[:4]]
    write_files(tmp_path, tree(*wnids[:3]))
    write_files(tmp_path, {f"stuff/ILSVRC2012_val_{i:08d}.JPEG": b"" for i in range(1, 5)})
    source = find_source(tmp_path)
    assert counts(source) == {"train": 6, "val": 3}
    assert [(entry.place, entry.count) for entry in source.unused] == [("stuff", 1)]


@pytest.mark.parametrize("train", ["", "train/"])
def test_the_validation_tar_beside_unpacked_classes(tmp_path: Path, train: str) -> None:
    wnids = [imagenet_classes()[label].wnid for label in validation_labels()[:3]]
    val = tar_bytes({f"ILSVRC2012_val_{i:08d}.JPEG": b"" for i in range(1, 4)})
    write_files(tmp_path, tree(*(train + wnid for wnid in wnids)) | {"ILSVRC2012_img_val.tar": val})
    source = find_source(tmp_path)
    assert counts(source) == {"train": 6, "val": 3} and not source.unused


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_val_{:08d}.jpg", "ILSVRC2012_val_{:08d}.JPEG", "ilsvrc2012_val_{:08d}.png"]
)
def test_a_flat_validation_folder_alone(tmp_path: Path, name: str) -> None:
    source = find_source(write_files(tmp_path, {name.format(i): b"" for i in range(1, 9)}))
    assert counts(source) == {"val": 8} and len(source.classes) == 1000
    labels = {source.table.origin(i): int(source.table.label[i]) for i in range(8)}
    assert labels == {name.format(i): int(validation_labels()[i - 1]) for i in range(1, 9)}


def test_half_sorted_validation(tmp_path: Path) -> None:
    wnids = [imagenet_classes()[label].wnid for label in validation_labels()[:6]]
    write_files(tmp_path, tree(*(f"train/{wnid}" for wnid in wnids)))
    write_files(tmp_path, {f"val/{wnids[0]}/ILSVRC2012_val_00000001.JPEG": b""})
    write_files(tmp_path, {f"val/ILSVRC2012_val_{i:08d}.JPEG": b"" for i in range(2, 7)})
    source = find_source(tmp_path)
    assert counts(source) == {"train": 12, "val": 6} and not source.unused


def test_hugging_face_tars(tmp_path: Path) -> None:
    """Flat tars with the wnid at the end of each name; the test tar has no labels."""
    files = {
        "data/train_images_0.tar": tar_bytes({"n01440764_1_n01440764.JPEG": b"1"}),
        "data/train_images_1.tar": tar_bytes({"n01443537_1_n01443537.JPEG": b"2"}),
        "data/val_images.tar": tar_bytes({"ILSVRC2012_val_00000293_n01440764.JPEG": b"3"}),
        "data/test_images.tar": tar_bytes({"ILSVRC2012_test_00000001.JPEG": b"4"}),
    }
    source = find_source(write_files(tmp_path, files))
    assert counts(source) == {"train": 2, "val": 1} and names_of(source) == ["n01440764", "n01443537"]
    assert [(entry.place, entry.count) for entry in source.unused] == [("data/test_images.tar", 1)]
    assert not any("challenge" in warning for warning in source.warnings)


def test_numeric_folders_sort_by_number(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, tree("0", "1", "2", "10")))
    assert names_of(source) == ["0", "1", "2", "10"]
    assert "class '10' has the index 3" in source.warnings[0]


def test_class_lists(tmp_path: Path) -> None:
    """ImageNet-V2's numbers, and a subset of wnids, keep ImageNet's indices."""
    source = find_source(write_files(tmp_path / "v2", tree("0", "2", "999")), classes="imagenet", splits=["val=."])
    assert counts(source) == {"val": 6} and sorted(set(source.table.label.tolist())) == [0, 2, 999]
    source = find_source(write_files(tmp_path / "a", tree("n01443537")), classes="imagenet", splits=["test=."])
    assert len(source.classes) == 1000 and set(source.table.label.tolist()) == {1}
    write_files(tmp_path, {"list.txt": b"zebra\ncat\tdomestic cat\n"})
    source = find_source(write_files(tmp_path / "b", tree("cat")), classes=str(tmp_path / "list.txt"))
    assert set(source.table.label.tolist()) == {1} and source.classes[1].words == "domestic cat"
    with pytest.raises(UsageError, match="has the class 'dog', which is not among the 2"):
        find_source(write_files(tmp_path / "c", tree("dog")), classes=str(tmp_path / "list.txt"))


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all images are of one class, 'cat'"):
        find_source(write_files(tmp_path, tree("train/cat", "val/cat")))


def test_names_do_not_depend_on_what_lies_beside(tmp_path: Path) -> None:
    one = find_source(write_files(tmp_path / "one", tree("train/animals/dog", "train/car")))
    two = find_source(write_files(tmp_path / "two", tree("train/animals/dog", "train/animals/cat", "train/car")))
    assert names_of(one) == ["animals/dog", "car"] and names_of(two) == ["animals/cat", "animals/dog", "car"]
