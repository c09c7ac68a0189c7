"""Tars of one class each, of any classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.sources.find import Source, find_source, read_bytes
from tests.tools.fake_sources import jpeg, tar_bytes, write_files


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
    """Known wnids and others, a backup beside them, and something in a tar that is no image."""
    tars = {"n00004475.tar": class_tar("n00004475", 1, 2), "n01440764.tar": class_tar("n01440764", 3)}
    write_files(tmp_path, tars | {"n00005787.tar": tar_bytes({"list.txt": b""}), "backup.tar": tar_bytes({})})
    source = find_source(tmp_path)
    assert source.kind == "class-tars"
    assert [(entry.name, entry.words) for entry in source.classes] == [
        ("n00004475", "n00004475"),
        ("n00005787", "n00005787"),
        ("n01440764", "tench"),
    ]
    assert found(source) == [
        ("train", "n00004475", "n00004475_1", jpeg(1)),
        ("train", "n00004475", "n00004475_2", jpeg(2)),
        ("train", "n01440764", "n01440764_3", jpeg(3)),
    ]
    assert source.table.origin(2) == "n01440764.tar!n01440764_3.JPEG"
    assert source.notes[0].startswith("Not used: 1 file in n00005787.tar, no images")


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
    with pytest.raises(UsageError, match="tars of the class 'n00004475', which train has not"):
        find_source(tmp_path)


def test_imagenet_in_class_tars_of_both_splits(tmp_path: Path) -> None:
    """All wnids are the challenge's, but its own validation tar is not there."""
    write_files(tmp_path, {f"{split}/n01440764.tar": class_tar(split, 1) for split in ("train", "val")})
    assert [row[:2] for row in found(find_source(tmp_path))] == [("train", "n01440764"), ("val", "n01440764")]


def test_classes_with_other_names_are_taken_where_asked_for(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat.tar": class_tar("a", 1), "big dog.tar": class_tar("b", 2)})
    assert [row[1] for row in found(find_source(tmp_path, "class-tars"))] == ["big dog", "cat"]
    with pytest.raises(UsageError, match="holds no tars"):
        find_source(write_files(tmp_path / "none", {"cat/1.jpg": b""}), "class-tars")
