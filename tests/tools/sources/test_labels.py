"""Labels: what they are when they are no plain numbers, and what is refused; tables of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sources.find import Source, find_source
from alexnet_fast.tools.sources.imagenet import imagenet_classes
from alexnet_fast.tools.sources.sample_labels import UNLABELED, Label, LabelError, label_of, label_of_json, merged
from tests.tools.fake_sources import tar_bytes, write_files


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, Label(3)),
        (3.0, Label(3)),
        ("3.0", Label(3)),
        ("03", Label(3)),
        (b" 12\n", Label(12)),
        ([7], Label(7)),
        ("[7]", Label(7)),
        ([["cat"]], Label(None, "cat")),
        (True, Label(1)),
        (-1, UNLABELED),
        ("-1", UNLABELED),
        ("-1.0", UNLABELED),
        (float("nan"), UNLABELED),
        ("NaN", UNLABELED),
        (None, UNLABELED),
        ("", UNLABELED),
        ("n01440764", Label(None, "n01440764")),
        ("1 cat", Label(None, "1 cat")),
    ],
)
def test_what_a_label_is(value: Any, label: Label) -> None:
    assert label_of(value) == label


@pytest.mark.parametrize("value", [3.5, "3.5", [1, 2], [], {"a": 1}, 100_000, "9" * 5000, "x" * 500, float("inf")])
def test_what_no_label_is(value: Any) -> None:
    with pytest.raises(LabelError):
        label_of(value)


def test_labels_that_say_one_thing_twice() -> None:
    assert label_of_json({"label": 6, "class_name": "frog", "url": "x"}) == Label(6, "frog")
    assert label_of_json({"class_name": "7", "label": 6}) == Label(6)  # a name that is a number is none beside a number
    assert merged(Label(6), Label(6, "frog")) == Label(6, "frog")
    for one, two in ((Label(6), Label(7)), (Label(None, "a"), Label(None, "b")), (Label(6, "a"), Label(6, "b"))):
        with pytest.raises(LabelError, match="two labels disagree"):
            merged(one, two)
    with pytest.raises(LabelError, match="two labels disagree: 1 and 2"):
        label_of_json({"label": 1, "cls": 2})


def tar(*samples: dict[str, Any]) -> bytes:
    """Samples of component -> what it holds; the image's bytes are the sample's number."""
    files = {}
    for number, sample in enumerate(samples):
        for component, value in {"jpg": b"%d" % number, **sample}.items():
            files[f"{number:03d}.{component}"] = value if isinstance(value, bytes) else json.dumps(value).encode()
    return tar_bytes({name: content for name, content in files.items() if content != b"null"})


def labels(source: Source) -> list[tuple[str, str]]:
    """(origin, class) of every image."""
    table = source.table
    return [(table.origin(i), source.classes[table.label[i]].name) for i in range(len(table))]


def found(root: Path, *samples: dict[str, Any]) -> Source:
    return find_source(write_files(root, {"train-0.tar": tar(*samples)}))


@pytest.mark.parametrize(
    "written",
    [[0, 1, 2, 10, -1], [0.0, 1.0, 2.0, 10.0, None], [[0], [1], [2], [10], [-1]], ["0", "1", "2", "10", "nan"]],
)
def test_numbers_stay_numbers(tmp_path: Path, written: list[Any]) -> None:
    source = found(tmp_path, *({"json": {"label": value}} for value in written))
    assert source.table.label.tolist() == [0, 1, 2, 10] and len(source.classes) == 11
    assert [(entry.place, entry.count) for entry in source.unused] == [("train-0.tar", 1)]


def test_an_unlabeled_split_is_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"x-train-0.tar": tar({"cls": 0}, {"cls": 1}), "x-test-0.tar": tar({"cls": -1}, {"cls": -1})})
    source = find_source(tmp_path)
    assert source.splits == ("train",) and len(source.classes) == 2
    assert [(entry.place, entry.count) for entry in source.unused] == [("x-test-0.tar", 2)]


def test_names_of_numbers(tmp_path: Path) -> None:
    frog, cat = {"label": 6, "class_name": "frog"}, {"label": 1, "class_name": "cat"}
    source = found(tmp_path / "a", {"json": frog}, {"json": cat}, {"cls": 6})
    assert [name for _, name in labels(source)] == ["frog", "cat", "frog"]
    assert source.table.label.tolist() == [6, 1, 6]
    with pytest.raises(UsageError, match="the labels contradict each other: 6 is 'frog' and 'toad'"):
        found(tmp_path / "b", {"json": frog}, {"json": cat}, {"json": {"label": 6, "class_name": "toad"}})


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"cls": 1, "json": {"label": 2}}, "two labels disagree: 1 and 2"),
        ({"json": {"label": [1, 2]}}, "is a list of 2, not one class"),
        ({"cls": b"3.5"}, "is no whole number"),
        ({"cls": 1, "png": b"another image"}, r"several images that differ \(jpg, png\)"),
        ({"jpg": b"null", "a.jpg": b"one", "b.jpg": b"two", "cls": 1}, r"several images that differ \(a.jpg, b.jpg\)"),
    ],
)
def test_samples_that_contradict_themselves(tmp_path: Path, sample: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        found(tmp_path, {"cls": 0}, sample)


def test_keys_end_at_the_first_dot(tmp_path: Path) -> None:
    files = {f"photo0.{i}.{end}": b"%d" % i for i in range(3) for end in ("jpg", "cls")}
    with pytest.raises(UserError, match="the sample 'photo0' has several images that differ"):
        find_source(write_files(tmp_path, {"a.tar": tar_bytes(files)}))


def test_the_exact_component_wins(tmp_path: Path) -> None:
    sample = {"jpg": b"one", "seg.png": b"mask", "cls": 1, "old.cls": 7}
    source = found(tmp_path, {"cls": 0}, sample)
    assert labels(source) == [("train-0.tar!000.jpg", "0"), ("train-0.tar!001.jpg", "1")]
    assert "001.seg.png" in source.unused[0].reason


@pytest.mark.parametrize("component", ["cls", "json", "cls.txt", "txt", "label", "class"])
def test_components_that_are_labels(tmp_path: Path, component: str) -> None:
    values = [{"label": number} if component == "json" else number for number in (1, 0, 1)]
    source = found(tmp_path, *({component: value} for value in values))
    assert source.table.label.tolist() == [1, 0, 1]


@pytest.mark.parametrize("component", ["cls", "json", "cls.txt"])
def test_minus_one_leaves_the_class_to_other_members(tmp_path: Path, component: str) -> None:
    """The member knows no label, a text beside it may; texts are labels where nothing else says one."""
    none: dict[str, Any] = {component: {"label": -1} if component == "json" else -1}
    source = found(tmp_path / "a", {"txt": 0}, {"txt": 1}, none | {"txt": 2}, none, {"txt": 1})
    assert labels(source) == [(f"train-0.tar!{i:03d}.jpg", str(label)) for i, label in ((0, 0), (1, 1), (2, 2), (4, 1))]
    assert [(entry.place, entry.count) for entry in source.unused] == [("train-0.tar", 1)]
    assert "'003'" in source.unused[0].reason
    source = found(tmp_path / "b", {"cls": 0}, {"cls": 1}, none | {"label": 1}, none | {"txt": 0})
    assert source.table.label.tolist() == [0, 1, 1]  # a caption, where other samples have a .cls
    assert "'003'" in source.unused[0].reason
    source = found(tmp_path / "c", {"txt": 0}, {"txt": -1}, {"txt": 1}, {"txt": 1})
    assert source.table.label.tolist() == [0, 1, 1] and "'001'" in source.unused[0].reason


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path: Path) -> None:
    source = found(tmp_path, *({"cls": b"\xef\xbb\xbf%d\r\n" % number} for number in (2, 10, 0)))
    assert source.table.label.tolist() == [2, 10, 0]


def test_texts_that_disagree(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two labels disagree: 1 and 2"):
        found(tmp_path, {"txt": 0}, {"txt": 0}, {"jpg": b"2", "cls": -1, "a.txt": 1, "b.txt": 2})


def test_captions_are_no_labels(tmp_path: Path) -> None:
    captions = [{"txt": b"a photo of a cat on a mat"}, {"txt": b"a dog"}]
    with pytest.raises(UsageError, match="texts or JSON beside them, which say no labels"):
        find_source(write_files(tmp_path / "a", {f"0000{i}.tar": tar(*captions) for i in range(2)}))
    with pytest.raises(UsageError, match="are called like the tars of one set"):
        find_source(write_files(tmp_path / "c", {f"x-{i}.tar": tar({}, {}) for i in range(2)}))
    source = found(tmp_path / "b", *({"cls": number, **caption} for number, caption in enumerate(captions)))
    assert source.table.label.tolist() == [0, 1]


def test_members_of_a_sample_apart(tmp_path: Path) -> None:
    """As `tar --sort=name` by extension leaves them."""
    files = {f"{i}.jpg": b"image" for i in range(20)} | {f"{i}.cls": b"%d" % (i % 3) for i in range(20)}
    source = find_source(write_files(tmp_path, {"a.tar": tar_bytes(files)}))
    assert source.table.label.tolist() == [i % 3 for i in range(20)] and not source.unused


def named(indices: list[int], label_of_index: dict[int, int]) -> bytes:
    files: dict[str, bytes] = {}
    for number, index in enumerate(indices):
        stem = f"{imagenet_classes()[index].wnid}_{number}"
        files |= {f"{stem}.jpg": b"x", f"{stem}.cls": b"%d" % label_of_index[index]}
    return tar_bytes(files)


def test_schemes_that_contradict(tmp_path: Path) -> None:
    """Train numbered by sorted wnids, val by the devkit; all counted from 1; one wnid with two numbers."""
    chosen = [0, 5, 9]
    ours = {index: index for index in chosen}
    devkit = {index: imagenet_classes()[index].ilsvrc2012_id for index in chosen}
    from_one = {index: index + 1 for index in chosen}
    own = {0: 0, 5: 1, 9: 2}
    other = {0: 0, 5: 2, 9: 1}
    assert len(find_source(write_files(tmp_path / "a", {"train-0.tar": named(chosen, ours)})).classes) == 1000
    assert len(find_source(write_files(tmp_path / "b", {"train-0.tar": named(chosen, own)})).classes) == 3
    for number, (train, val, message) in enumerate(
        (
            (ours, devkit, "the splits number ImageNet's classes differently"),
            (from_one, from_one, "counted from 1"),
            (devkit, devkit, "the devkit's ids"),
            (own, other, "have the label 1 in train and 2 in val"),
        )
    ):
        files = {"train-0.tar": named(chosen, train), "val-0.tar": named(chosen, val)}
        with pytest.raises(UsageError, match=message):
            find_source(write_files(tmp_path / str(number), files))


def test_labels_that_train_lacks(tmp_path: Path) -> None:
    write_files(tmp_path, {"train-0.tar": tar({"cls": 0}, {"cls": 1}), "val-0.tar": tar({"cls": 1}, {"cls": 2})})
    with pytest.raises(UsageError, match="the val split has the class '2', which train has not"):
        find_source(tmp_path)


def test_numbers_and_names_mixed(tmp_path: Path) -> None:
    write_files(tmp_path, {"train-0.tar": tar({"cls": b"cat"}, {"cls": b"dog"}), "val-0.tar": tar({"cls": 0})})
    with pytest.raises(
        UsageError, match=r"some labels are numbers \('0', in val\), others are names \('cat', 'dog', in t"
    ):
        find_source(tmp_path)
    write_files(tmp_path, {"names.txt": b"dog\ncat\n"})
    source = find_source(tmp_path, classes=str(tmp_path / "names.txt"))
    assert source.table.label.tolist() == [1, 0, 0]


FLAT = {f"images/{i}.jpg": b"x" for i in range(4)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "id,breed\n0,pug\n1,poodle\n2,pug\n3,poodle\n"),
        (
            "metadata.csv",
            "file_name,label\nimages/0.jpg,pug\nimages/1.jpg,poodle\nimages/2.jpg,pug\nimages/3.jpg,poodle\n",
        ),
        (
            "x.tsv",
            "label\tpath\npug\t./images/0.jpg\npoodle\t./images/1.jpg\npug\timages/2.jpg\npoodle\timages/3.jpg\n",
        ),
        ("two.txt", "0.jpg pug\n1.jpg poodle\n2.jpg pug\n3.jpg poodle\n"),
        ("no_header.csv", "0.jpg,pug\n1.jpg,poodle\n2.jpg,pug\n3.jpg,poodle\n"),
        (
            "m.jsonl",
            "".join(f'{{"file_name": "images/{i}.jpg", "label": "{("pug", "poodle")[i % 2]}"}}\n' for i in range(4)),
        ),
    ],
)
def test_tables_of_labels(tmp_path: Path, name: str, content: str) -> None:
    write_files(tmp_path, FLAT | {name: content.encode()})
    source = find_source(tmp_path, labels=[str(tmp_path / name)])
    assert dict(labels(source)) == {f"images/{i}.jpg": ("pug", "poodle")[i % 2] for i in range(4)}
    assert source.label_source == "a table of labels" and not source.unused and not source.warnings


def test_a_table_for_the_images_of_tars(tmp_path: Path) -> None:
    """It counts before the labels beside the images."""
    rows = "file_name,label\n000.jpg,x\n001.jpg,y\n"
    write_files(tmp_path, {"a.tar": tar({"cls": 0}, {"cls": 0}), "l.csv": rows.encode()})
    source = find_source(tmp_path, labels=[str(tmp_path / "l.csv")])
    assert labels(source) == [("a.tar!000.jpg", "x"), ("a.tar!001.jpg", "y")] and not source.unused


def test_kaggle_s_solution_file(tmp_path: Path) -> None:
    rows = "ImageId,PredictionString\nv_1,n01440764 85 1 499 272\nv_2,n01443537 1 2 3 4 n01443537 5 6 7 8\n"
    write_files(tmp_path, {"val/v_1.JPEG": b"", "val/v_2.JPEG": b"", "solution.csv": rows.encode()})
    source = find_source(tmp_path, labels=[str(tmp_path / "solution.csv")])
    assert dict(labels(source)) == {"val/v_1.JPEG": "n01440764", "val/v_2.JPEG": "n01443537"}


def test_numbers_and_splits_in_tables(tmp_path: Path) -> None:
    rows = "filename,label,split\n0.jpg,3,train\n1.jpg,1,train\n2.jpg,1.0,test\n9.jpg,1,train\n"
    write_files(tmp_path, FLAT | {"l.csv": rows.encode()})
    source = find_source(tmp_path, labels=[str(tmp_path / "l.csv")])
    assert source.splits == ("train", "test") and sorted(source.table.label.tolist()) == [1, 1, 3]
    assert [(entry.place, entry.count) for entry in source.unused] == [("images", 1)]
    assert any("1 row whose image is not there ('9.jpg')" in warning for warning in source.warnings)


def test_tables_of_their_own_folders(tmp_path: Path) -> None:
    """Hugging Face's image folders have one in each split, and the same names in both."""
    for split in ("train", "test"):
        rows = "file_name,label\n1.jpg,a\n2.jpg,b\n" if split == "train" else "file_name,label\n1.jpg,b\n2.jpg,a\n"
        write_files(tmp_path, {f"{split}/1.jpg": b"", f"{split}/2.jpg": b"", f"{split}/metadata.csv": rows.encode()})
    source = find_source(tmp_path, labels=[str(tmp_path / split / "metadata.csv") for split in ("train", "test")])
    assert dict(labels(source)) == {"train/1.jpg": "a", "train/2.jpg": "b", "test/1.jpg": "b", "test/2.jpg": "a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,label\n0.jpg,1\n0.jpg,2\n", "says two things of '0.jpg'"),
        ("file_name,height,width\n0.jpg,1,2\n", "none is known to be the label's"),
        ("file_name,label\n0.jpg,1.5\n", "is no whole number"),
        ("file_name,label\n", "holds no labels"),
        ("0.jpg\n", "is no file name with a label"),
        ("a,b,c\nx,y,z\n", "has 2 rows whose image is not there"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    write_files(tmp_path, FLAT | {"l.csv": content.encode()})
    with pytest.raises(UsageError, match=message):
        find_source(tmp_path, labels=[str(tmp_path / "l.csv")])


def test_a_row_that_fits_two_images(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"a/1.jpg": b"", "b/1.jpg": b"", "b/2.jpg": b"", "l.csv": b"file_name,label\n1.jpg,x\n2.jpg,y\n"}
    )
    with pytest.raises(UsageError, match=r"its row for '1\.jpg' fits several images"):
        find_source(tmp_path, labels=[str(tmp_path / "l.csv")])


def test_tiny_imagenet(tmp_path: Path) -> None:
    wnids = ["n01440764", "n01443537", "n01484850"]
    files = {f"train/{wnid}/images/{wnid}_{i}.JPEG": b"" for wnid in wnids for i in range(2)}
    files |= {f"train/{wnid}/{wnid}_boxes.txt": b"" for wnid in wnids} | {"wnids.txt": b"", "words.txt": b""}
    files |= {f"val/images/val_{i}.JPEG": b"" for i in range(3)} | {f"test/images/test_{i}.JPEG": b"" for i in range(2)}
    rows = "".join(f"val_{i}.JPEG\t{wnids[2 - i]}\t0\t0\t9\t9\n" for i in range(3))
    source = find_source(write_files(tmp_path, files | {"val/val_annotations.txt": rows.encode()}))
    assert [entry.name for entry in source.classes] == wnids and source.splits == ("train", "val")
    assert [row for row in labels(source) if row[0].startswith("val")] == [
        ("val/images/val_2.JPEG", wnids[0]),
        ("val/images/val_1.JPEG", wnids[1]),
        ("val/images/val_0.JPEG", wnids[2]),
    ]
    assert [(entry.place, entry.count) for entry in source.unused] == [("test/images", 2)]
