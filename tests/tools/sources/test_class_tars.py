"""Tars of one class each, of any classes: a tar counts as a folder that is called as the tar."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.sources.find import Source, find_source, read_bytes
from tests.tools.fake_sources import gzipped_tar, jpeg, tar_bytes, write_files


def class_tar(name: str, *seeds: int) -> bytes:
    return tar_bytes({f"{name}_{seed}.JPEG": jpeg(seed) for seed in seeds})


def found(source: Source) -> list[tuple[str, str, str, bytes]]:
    """(split, class, stem, content)"""
    table = source.table
    return [
        (
            source.splits[table.split[i]],
            source.classes[table.label[i]].name,
            table.stem(i),
            read_bytes(table.location(i)),
        )
        for i in range(len(table))
    ]


def test_as_imagenet_21k_comes(tmp_path: Path) -> None:
    """Known wnids and others, backups beside them, and a tar without an image."""
    tars = {"n00004475.tar": class_tar("n00004475", 1, 2), "n01440764.tar": class_tar("n01440764", 3)}
    tars |= {"n00005787.tar": tar_bytes({"list.txt": b""}), "empty.tar": tar_bytes({}), "backup.tar": class_tar("x", 4)}
    source = find_source(write_files(tmp_path, tars))
    assert [(entry.name, entry.words) for entry in source.classes] == [
        ("n00004475", "n00004475"),
        ("n01440764", "tench"),
    ]
    assert found(source) == [
        ("train", "n00004475", "n00004475_1", jpeg(1)),
        ("train", "n00004475", "n00004475_2", jpeg(2)),
        ("train", "n01440764", "n01440764_3", jpeg(3)),
    ]
    assert source.table.origin(2) == "n01440764.tar!n01440764_3.JPEG"
    assert [(entry.place, entry.count) for entry in source.unused] == [("backup.tar", 1)]


def test_split_folders(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "val/n00004475.tar": class_tar("v", 9),
            "train/n00004475.tar": class_tar("t", 1),
            "train/n00004476.tar": class_tar("t", 2),
        },
    )
    assert found(find_source(tmp_path)) == [
        ("train", "n00004475", "t_1", jpeg(1)),
        ("train", "n00004476", "t_2", jpeg(2)),
        ("val", "n00004475", "v_9", jpeg(9)),
    ]
    (tmp_path / "train" / "n00004475.tar").unlink()
    with pytest.raises(UsageError, match="the val split has the class 'n00004475', which train has not"):
        find_source(tmp_path)


def test_in_folders_and_half_unpacked(tmp_path: Path) -> None:
    """Some tars in a folder, some classes unpacked already, one compressed: all are used."""
    write_files(
        tmp_path,
        {
            "n00004475.tar": class_tar("a", 1),
            "part2/n00004476.tar": class_tar("b", 2),
            "n00004477/c_3.JPEG": jpeg(3),
            "n00004478.tar.gz": gzipped_tar({"d_4.JPEG": jpeg(4)}),
        },
    )
    source = find_source(tmp_path)
    assert [entry.name for entry in source.classes] == ["n00004475", "n00004476", "n00004477", "n00004478"]
    assert source.table.label.tolist() == [0, 1, 2, 3] and not source.unused
    assert [source.table.origin(i) for i in range(4)] == [
        "n00004475.tar!a_1.JPEG",
        "part2/n00004476.tar!b_2.JPEG",
        "n00004477/c_3.JPEG",
        "n00004478.tar.gz!d_4.JPEG",
    ]


def test_classes_with_other_names(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat.tar": class_tar("a", 1), "big dog.tar": tar_bytes({"big dog/2.jpg": jpeg(2)})})
    assert [row[1] for row in found(find_source(tmp_path))] == ["big dog", "cat"]


def test_an_unpacked_copy_beside_its_tar_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat.tar": class_tar("a", 1), "cat/a_1.JPEG": jpeg(1), "dog/2.JPEG": jpeg(2)})
    with pytest.raises(UsageError, match=r"cat and cat\.tar both hold a_1\.JPEG"):
        find_source(tmp_path)


def test_a_tar_of_the_whole_tree(tmp_path: Path) -> None:
    names = {f"imagenet/{split}/{name}/{split}{name}.jpg": jpeg(1) for split in ("train", "val") for name in ("a", "b")}
    write_files(tmp_path, {"all.tar": tar_bytes(names)})
    for place in (tmp_path, tmp_path / "all.tar"):
        assert [row[:2] for row in found(find_source(place))] == [
            ("train", "a"),
            ("train", "b"),
            ("val", "a"),
            ("val", "b"),
        ]


def test_numbered_tars_of_class_folders(tmp_path: Path) -> None:
    """The tars' own names are no part of the classes'."""
    tars = {f"part-{i:03d}.tar": tar_bytes({f"cat/{i}.jpg": jpeg(i), f"dog/{i}.jpg": jpeg(9 - i)}) for i in range(2)}
    source = find_source(write_files(tmp_path, tars))
    assert [entry.name for entry in source.classes] == ["cat", "dog"] and len(source.table) == 4
