"""Class folders in all the ways people have them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sources.find import Source, find_source, read_bytes
from alexnet_fast.tools.sources.imagenet import imagenet_classes, validation_labels
from tests.tools.fake_sources import write_files


def rows(source: Source) -> list[tuple[str, str, str]]:
    """(split, class, origin) of every image."""
    table = source.table
    return [
        (source.splits[table.split[i]], source.classes[table.label[i]].name, table.origin(i)) for i in range(len(table))
    ]


def unused(source: Source) -> list[tuple[str, int]]:
    """(place, count) of what is not used."""
    return [(entry.place, entry.count) for entry in source.unused]


def images(*names: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names}


def test_train_and_val(tmp_path: Path) -> None:
    write_files(tmp_path, images("train/b/2.jpg", "train/b/10.jpg", "train/a/x.PNG", "val/b/3.jpeg"))
    source = find_source(tmp_path)
    assert source.kind == "folders"
    assert source.splits == ("train", "val")
    assert rows(source) == [
        ("train", "a", "train/a/x.PNG"),
        ("train", "b", "train/b/10.jpg"),
        ("train", "b", "train/b/2.jpg"),
        ("val", "b", "val/b/3.jpeg"),
    ]
    assert read_bytes(source.table.location(1)) == b"train/b/10.jpg"
    assert source.notes == ()


def test_one_level_is_train_and_says_so(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, images("cat/1.jpg", "dog/1.jpg")))
    assert {row[0] for row in rows(source)} == {"train"}
    assert "No validation split" in source.notes[0]


@pytest.mark.parametrize("name", ["validation", "valid", "Val"])
def test_other_words_for_val(tmp_path: Path, name: str) -> None:
    source = find_source(
        write_files(tmp_path, images("train/a/1.jpg", "train/b/1.jpg", f"{name}/a/2.jpg", "test/a/3.jpg"))
    )
    assert [row[0] for row in rows(source)] == ["train", "train", "val", "test"]


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    write_files(tmp_path, images("train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"))
    with pytest.raises(UsageError, match="'val', 'validation' are both the val split"):
        find_source(tmp_path)


def test_class_called_train(tmp_path: Path) -> None:
    """A train is a vehicle too: which it is, the user says."""
    write_files(tmp_path, images("car/1.jpg", "train/1.jpg", "plane/1.jpg"))
    with pytest.raises(UsageError, match=r"can be read in two ways.*`--split train=\.` makes all of them classes"):
        find_source(tmp_path)
    source = find_source(tmp_path, splits=["train=."])
    assert [entry.name for entry in source.classes] == ["car", "plane", "train"]
    assert "The class 'train' is called as a split is." in source.warnings[0]


def test_nested_names(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        images(
            "train/animals/dog/1.jpg",
            "train/animals/cat/1.jpg",
            "train/car/1.jpg",
            "train/car/images/2.jpg",
            "train/n01443537/images/3.jpg",
            "val/animals/dog/9.jpg",
        ),
    )
    assert [(split, name) for split, name, _ in rows(find_source(tmp_path))] == [
        ("train", "animals/cat"),
        ("train", "animals/dog"),
        ("train", "car"),
        ("train", "car"),
        ("train", "n01443537"),
        ("val", "animals/dog"),
    ]


def test_names_with_spaces_and_other_alphabets(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, images("train/Großer Hund/ein bild.jpg", "train/猫/写真.jpg")))
    assert [entry.name for entry in source.classes] == ["Großer Hund", "猫"]
    assert [source.table.origin(i) for i in range(2)] == ["train/Großer Hund/ein bild.jpg", "train/猫/写真.jpg"]
    assert read_bytes(source.table.location(1)) == "train/猫/写真.jpg".encode()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    write_files(tmp_path, {os.fsdecode(b"train/a\xff/\xfe.jpg"): b"content", "train/b/1.jpg": b""})
    source = find_source(tmp_path)
    assert source.table.origin(0) == "train/a\\xff/\\xfe.jpg"
    assert source.classes[0].name == "a\\xff"
    assert read_bytes(source.table.location(0)) == b"content"


def test_imagenet_words(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, images("train/n01440764/1.JPEG", "train/other/1.JPEG")))
    assert [entry.words for entry in source.classes] == ["tench", "other"]


def test_flat_validation_folder(tmp_path: Path) -> None:
    """As the val tar unpacks: the built-in labels give the classes; other classes' images are only mentioned."""
    wnids = [imagenet_classes()[label].wnid for label in validation_labels()[:6]]
    train = [f"train/{wnid}/{wnid}_1.JPEG" for wnid in wnids[:5]]
    val = [f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
    source = find_source(write_files(tmp_path, images(*train, *val)))
    labeled = {origin: name for split, name, origin in rows(source) if split == "val"}
    assert labeled == dict(zip(val[:5], wnids[:5], strict=True))
    assert unused(source) == [("val", 1)]


def test_kaggle_layout(tmp_path: Path) -> None:
    base = "ILSVRC/Data/CLS-LOC"
    wnid = imagenet_classes()[validation_labels()[0]].wnid
    names = [f"{base}/train/{wnid}/{wnid}_1.JPEG", f"{base}/val/ILSVRC2012_val_00000001.JPEG"]
    names += [f"{base}/train/n01440764/n01440764_1.JPEG"]
    names += [f"{base}/test/ILSVRC2012_test_00000001.JPEG", "ILSVRC/ImageSets/CLS-LOC/val.txt"]
    source = find_source(write_files(tmp_path, images(*names)))
    assert rows(source) == [
        ("train", "n01440764", f"{base}/train/n01440764/n01440764_1.JPEG"),
        ("train", wnid, f"{base}/train/{wnid}/{wnid}_1.JPEG"),
        ("val", wnid, f"{base}/val/ILSVRC2012_val_00000001.JPEG"),
    ]
    assert unused(source) == [(f"{base}/test", 1)]


def test_everything_else_is_mentioned(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        images(
            "train/a/1.jpg",
            "train/b/1.jpg",
            "train/a/notes.txt",
            "train/a/._1.jpg",
            "train/loose.jpg",
            "extra/5.jpg",
            ".hidden/1.jpg",
            "train/a/.thumbs/deep/1.jpg",
            "train/a/.thumbs/2.jpg",
        ),
    )
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / ".hidden" / "broken.jpg").symlink_to("nowhere.jpg")
    source = find_source(tmp_path)
    assert [row[2] for row in rows(source)] == ["train/a/1.jpg", "train/b/1.jpg"]
    assert unused(source) == [(".hidden", 2), ("extra", 1), ("train", 1)]
    notes = " ".join(source.notes)
    assert "No classes: 1 folder without an image ('train/empty')" in notes
    assert "1 other file, no images by their names (.txt 1)" in notes
    assert "2 files and folders that other programs left ('._*', '.thumbs')" in notes


@pytest.mark.parametrize(
    ("names", "folder", "message"),
    [
        (["train/a/1.jpg", "val/b/1.jpg"], "train/b", "no image in the class folder 'b' of train, but .* in val"),
        (["train/a/1.txt"], "train/a", "1 other file, no images by their names"),
        ([], ".", "found no files"),
        (["1.jpg", "2.jpg"], ".", "2 images in no class folder"),
        (["train/1.jpg", "val/1.jpg"], ".", "2 images in no class folder"),
        (["train/a/1.jpg", "val/b/1.jpg"], ".", "the val split has the class 'b', which train has not"),
    ],
)
def test_wrong_input(tmp_path: Path, names: list[str], folder: str, message: str) -> None:
    write_files(tmp_path, images(*names))
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UsageError, match=message):
        find_source(tmp_path)


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        find_source(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be listed"):
        find_source(tmp_path / "file")
    with pytest.raises(UsageError, match="the kinds are class-tars, folders"):
        find_source(tmp_path, "floppies")


def test_output_inside_the_source_and_links(tmp_path: Path) -> None:
    write_files(tmp_path, images("a/1.jpg", "real/2.jpg", "shards/train-000000.tar"))
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "real")
    source = find_source(tmp_path, "folders", exclude=tmp_path / "shards")
    assert [entry.name for entry in source.classes] == ["a", "b", "real"]


def test_output_inside_a_source_behind_a_url() -> None:
    fsspec = pytest.importorskip("fsspec")
    url = "memory://bucket-of-folders"
    system = fsspec.filesystem("memory")
    for name in ("a/1.jpg", "b/2.jpg", "shards/train-000000.tar", "shards/x/3.jpg", "shards-of-mine/4.jpg"):
        system.pipe_file(f"{url}/{name}", name.encode())
    source = find_source(url, exclude=f"{url}/shards/")
    assert [entry.name for entry in source.classes] == ["a", "b", "shards-of-mine"]
    before = source.fingerprint()
    system.pipe_file(f"{url}/a/1.jpg", b"a larger image of the same name")
    assert find_source(url, exclude=f"{url}/shards").fingerprint() != before


def test_more_classes_than_labels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.tools.sources.find.MAX_LABEL", 1)
    write_files(tmp_path, images("a/1.jpg", "b/2.jpg"))
    assert len(find_source(tmp_path).classes) == 2
    write_files(tmp_path, images("c/3.jpg"))
    with pytest.raises(UsageError, match="has 3 classes; there may be 2"):
        find_source(tmp_path)


def test_val_fraction(tmp_path: Path) -> None:
    names = [f"train/{name}/{i}.jpg" for name in "abcd" for i in range(10)]
    write_files(tmp_path, images(*names))
    sources = [find_source(tmp_path, val_fraction=0.25, seed=seed) for seed in (0, 0, 1)]
    chosen = [{origin for split, _, origin in rows(source) if split == "val"} for source in sources]
    assert chosen[0] == chosen[1] != chosen[2]
    per_class = [sum(origin.startswith(f"train/{name}/") for origin in chosen[0]) for name in "abcd"]
    assert sum(per_class) == 10
    assert set(per_class) == {2, 3}
    assert sorted(row[2] for row in rows(sources[0])) == sorted(names)
    assert np.all(np.diff(sources[0].table.split.astype(int)) >= 0)
    assert sources[0].fingerprint() == sources[1].fingerprint() != sources[2].fingerprint()
    moved = next(i for i in range(40) if sources[0].table.origin(i) in chosen[0])
    assert read_bytes(sources[0].table.location(moved)).decode() == sources[0].table.origin(moved)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 0.001])
def test_val_fraction_that_cannot_be(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(UsageError, match="--val-fraction"):
        find_source(write_files(tmp_path, images("train/a/1.jpg", "train/b/2.jpg")), val_fraction=fraction)


def test_every_class_keeps_an_image_to_train_on(tmp_path: Path) -> None:
    """Elsewhere a class of val that train has not is refused."""
    files = write_files(tmp_path, images("train/a/1.jpg", "train/b/2.jpg", *(f"train/c/{n}.jpg" for n in range(3))))
    for fraction in (0.5, 0.99):
        source = find_source(files, val_fraction=fraction)
        assert set(source.table.label[source.table.split == source.splits.index("train")].tolist()) == {0, 1, 2}
    with pytest.raises(UsageError, match="of 2 images that is none, as each class keeps one"):
        find_source(write_files(tmp_path / "singles", images("train/a/1.jpg", "train/b/2.jpg")), val_fraction=0.9)


def test_val_fraction_with_val(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --val-fraction away"):
        find_source(write_files(tmp_path, images("train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg")), val_fraction=0.5)


def test_order_is_not_the_file_systems(tmp_path: Path) -> None:
    names = [f"train/{c}/{i}.jpg" for c in "ab" for i in range(5)]
    one = find_source(write_files(tmp_path / "one", images(*names)))
    two = find_source(write_files(tmp_path / "two", images(*reversed(names))))
    assert rows(one) == rows(two)
    assert one.fingerprint() == two.fingerprint()


def test_vanished_image(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, images("train/a/1.jpg", "train/b/1.jpg")))
    (tmp_path / "train/a/1.jpg").unlink()
    with pytest.raises(UserError, match=r"1\.jpg: cannot be read \(No such file"):
        read_bytes(source.table.location(0))


@pytest.mark.parametrize("oddity", ["broken", "itself", "pipe"])
def test_a_image_that_is_no_file_is_refused_before_the_work(tmp_path: Path, oddity: str) -> None:
    folder = tmp_path / "cat"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"jpeg")
    odd = folder / "odd.jpg"
    if oddity == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("nowhere.jpg" if oddity == "broken" else "odd.jpg")
    with pytest.raises(UserError, match=r"cat/odd\.jpg: is a broken link or no regular file"):
        find_source(tmp_path)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"jpeg")
    scandir = os.scandir

    def refuse(path: bytes) -> object:  # permissions do not stop root
        if os.fsencode(path).endswith(b"/cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/cat: cannot be read \(Permission denied\)"):
        find_source(tmp_path)
