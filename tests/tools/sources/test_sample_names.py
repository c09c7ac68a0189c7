"""Names inside the shards: safe, unique, and the file's own where it can be."""

from __future__ import annotations

import re
from pathlib import Path

from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.sources.sample_names import made_stem, unique_stems
from tests.tools.fake_sources import write_files

ODD = [
    b"train/a/plain.jpg",
    b"train/a/with space.jpg",
    b"train/a/with.dots.jpg",
    b"train/a/\xe5\x86\x99\xe7\x9c\x9f.jpg",
    b"train/a/new\nline.jpg",
    b"train/a/same.jpg",
    b"train/b/same.jpg",
    b"train/b/same.png",
    b"train/a/-rf.jpg",
    b"train/a/__key__.jpg",
    b"train/a/" + b"long" * 50 + b".jpg",
    b"train/a/\xff.jpg",
    b"train/a/...jpg",
]


def test_odd_names() -> None:
    stems = [stem.decode() for stem in unique_stems(ODD, [None] * len(ODD))]
    assert len(set(stems)) == len(ODD)
    assert all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]{0,79}", stem) for stem in stems)
    assert stems[0] == "plain"
    assert stems[1].startswith("with_space-")
    assert stems[5].startswith("same-")


def test_independent_of_order() -> None:
    forward = dict(zip(ODD, unique_stems(ODD, [None] * len(ODD)), strict=True))
    backward = dict(zip(ODD[::-1], unique_stems(ODD[::-1], [None] * len(ODD)), strict=True))
    assert forward == backward


def test_in_tars() -> None:
    """`../` and equal names in one tar."""
    origins = [b"t.tar!../../etc/x.jpg", b"t.tar!d/n01440764_10026.JPEG", b"t.tar!twice.jpg", b"t.tar!twice.jpg"]
    stems = list(unique_stems(origins, [0, 1, 2, 3]))
    assert stems[:2] == [b"x", b"n01440764_10026"]
    assert len(set(stems)) == 4


def test_a_file_that_is_called_as_another_will_be() -> None:
    """As where what came out of shards lies beside what went in, twice over."""
    odd = b"a/x y.jpg"
    once = b"b/" + made_stem(b"x y", odd) + b".jpg"
    twice = b"c/" + made_stem(once[2:-4], once) + b".jpg"
    for origins in ([odd, once, twice], [twice, once, odd]):
        assert len(set(unique_stems(origins, [None] * 3))) == 3
    assert list(unique_stems([once], [None])) == [once[2:-4]]


def test_table_leads_back(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, {"train/a b/x y.jpg": b"1", "train/c/x y.jpg": b"2"}))
    stems = {source.table.stem(i): source.table.origin(i) for i in range(2)}
    assert sorted(stems.values()) == ["train/a b/x y.jpg", "train/c/x y.jpg"]
