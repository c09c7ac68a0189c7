"""Compressed tars, parquet files, and shards of this program as sources."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.commands.main import main
from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sources import packed
from alexnet_fast.tools.sources.find import find_source
from tests.tools.fake_sources import jpeg, tar_bytes, write_files
from tests.tools.shard_helpers import digests, run


def samples(folder: Path) -> dict[str, tuple[str, str, bytes]]:
    """Source name -> (split, class, JPEG) of every sample written."""
    dataset = Dataset.load(folder)
    lines = (folder / "sources.tsv").read_text().splitlines()[1:]
    origin = {stem: source for stem, _, source in (line.split("\t") for line in lines)}
    found = {}
    for split in dataset.splits:
        for file in dataset.tars(split):
            with tarfile.open(file) as archive:
                parts = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
            for name, content in parts.items():
                if name.endswith(".jpg"):
                    label = int(parts[name[:-4] + ".cls"])
                    found[origin[name[:-4]]] = (split, dataset.classes[label].name, content)
    return found


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    """The image's center square, 64 px wide: what of it a sample must resemble."""
    with Image.open(io.BytesIO(content)) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((32, 32), Image.Resampling.BOX), dtype=float)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "0.tar.gz": gzip.compress,
    "1.tgz": gzip.compress,
    "2.tar.bz2": bz2.compress,
    "3.tar.xz": lzma.compress,
    "4.tar": gzip.compress,
    "5.tar": bytes,
}
"""Ends of names -> how such a tar is made; gzip may be called .tar."""


@pytest.mark.parametrize("kind", ["samples", "classes"])
def test_compressed_tars(tmp_path: Path, kind: str) -> None:
    """As labeled samples and as class tars; all are read, and the work folder is gone in the end."""
    source, expected = {}, {}
    for number, (ending, pack) in enumerate(PACKED.items()):
        name = f"train-{ending}" if kind == "samples" else f"c{ending}"
        files = {f"{number}.jpg": jpeg(number)} | ({f"{number}.cls": b"%d" % number} if kind == "samples" else {})
        source[name] = pack(tar_bytes(files))
        expected[f"{name}!{number}.jpg"] = ("train", str(number) if kind == "samples" else f"c{number}", number)
    outcome = run(write_files(tmp_path / "in", source), tmp_path / "out")
    assert outcome.dataset.accounting() == {"found": 6, "written": 6, "skipped": 0}
    found = samples(tmp_path / "out")
    assert {name: value[:2] for name, value in found.items()} == {name: value[:2] for name, value in expected.items()}
    for name, (_, _, content) in found.items():
        assert np.abs(pixels(content) - pixels(jpeg(expected[name][2]))).mean() < 8
    assert not (tmp_path / "out" / ".sharding").exists()


def test_a_compressed_tar_that_is_cut(tmp_path: Path) -> None:
    whole = gzip.compress(tar_bytes({f"cat/{i}.jpg": np.random.default_rng(i).bytes(5000) for i in range(9)}))
    for number, content in enumerate((whole[: len(whole) // 2], whole[:-30])):
        source = write_files(tmp_path / f"{number}", {"all.tar.gz": content, "dog/1.jpg": jpeg(1)})
        with pytest.raises(UserError, match=r"all\.tar\.gz: is damaged or cut, it cannot be unpacked"):
            run(source, tmp_path / f"out{number}")
        assert not (tmp_path / f"out{number}" / "dataset.json").exists()


def test_reading_here_and_there_in_a_stream(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    reader = packed.ForwardReader(lambda: packed.open_packed(str(tmp_path / "x.gz")))
    for offset, size in ((0, 10), (5, 20), (5, 10), (4000, 512), (10_200, 100), (0, 3), (20_000, 5)):
        assert reader.read_at(offset, size) == content[offset : offset + size], (offset, size)
    reader.close()


def test_too_little_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_files(
        tmp_path / "in", {f"{name}.tgz": gzip.compress(tar_bytes({"1.jpg": jpeg(1)})) for name in "ab"}
    )
    monkeypatch.setattr("alexnet_fast.tools.storage.output.LocalOutput.free_bytes", lambda self: 100)
    with pytest.raises(UserError, match=r"2 compressed files of the source will take .* are free"):
        run(source, tmp_path / "out")


def write_parquet(path: Path, labels: list[Any], names: list[str] | None = None, **columns: Any) -> None:
    """As Hugging Face's datasets write image sets."""
    pyarrow = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": jpeg(i), "path": f"{path.stem}_{i}.jpg"} for i in range(len(labels))]
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pyarrow.table({"image": images, "label": labels} | columns).replace_schema_metadata(metadata)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=2)


def test_parquet(tmp_path: Path) -> None:
    names = ["cat", "dog", "emu", "fox"]
    write_parquet(tmp_path / "in/data/train-00000-of-00002.parquet", [0, 2, 1], names)
    write_parquet(tmp_path / "in/data/train-00001-of-00002.parquet", [1], names)
    write_parquet(tmp_path / "in/data/validation-00000-of-00001.parquet", [1, -1, 2], names)
    dataset = run(tmp_path / "in", tmp_path / "out").dataset
    assert [entry.name for entry in dataset.classes] == names
    assert dataset.accounting() == {"found": 7, "written": 6, "skipped": 1}
    found = samples(tmp_path / "out")
    assert {name.rpartition("!")[2]: value[:2] for name, value in found.items()} == {
        "train-00000-of-00002_0.jpg": ("train", "cat"),
        "train-00000-of-00002_1.jpg": ("train", "emu"),
        "train-00000-of-00002_2.jpg": ("train", "dog"),
        "train-00001-of-00002_0.jpg": ("train", "dog"),
        "validation-00000-of-00001_0.jpg": ("val", "dog"),
        "validation-00000-of-00001_2.jpg": ("val", "emu"),
    }
    for name, (_, _, content) in found.items():
        number = int(name.rpartition("_")[2][:-4])
        assert np.abs(pixels(content) - pixels(jpeg(number))).mean() < 8


def test_parquet_without_names_or_images(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["dog", "cat", "dog"])
    source = find_source(tmp_path / "a.parquet")
    assert [entry.name for entry in source.classes] == ["cat", "dog"] and source.table.label.tolist() == [1, 0, 1]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"b\.parquet: is damaged or no parquet file"):
        find_source(tmp_path / "b.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"text": ["a"], "label": [1]}), tmp_path / "c.parquet"
    )
    with pytest.raises(UsageError, match="none holds images' bytes"):
        find_source(tmp_path / "c.parquet")


def test_our_own_shards(tmp_path: Path) -> None:
    """Names, splits and labels are kept; the JPEGs are copied where size and options agree, else made again."""
    tree = {f"{split}/{name}/{split}{name}{i}.jpg": jpeg(hash((split, name, i)) % 999)
            for split in ("train", "val") for name in ("n01440764", "zebra") for i in range(3)}  # fmt: skip
    run(write_files(tmp_path / "in", tree), tmp_path / "first")
    again = run(tmp_path / "first", tmp_path / "second", shard_size=4).dataset
    first, second = samples(tmp_path / "first"), samples(tmp_path / "second")
    assert [(entry.name, entry.label) for entry in again.classes] == [("n01440764", "tench"), ("zebra", "zebra")]
    assert again.accounting() == {"found": 12, "written": 12, "skipped": 0} and not again.repaired
    assert sorted(first.values()) == sorted(second.values())
    smaller = run(tmp_path / "first", tmp_path / "third", image_options=ImageOptions(quality=60)).dataset
    assert smaller.accounting()["written"] == 12
    assert not {value[2] for value in samples(tmp_path / "third").values()} & {value[2] for value in first.values()}
    (tmp_path / "first" / "val-000000.tar").unlink()
    with pytest.raises(UserError, match=r"val-000000\.tar: is missing, dataset\.json names it"):
        find_source(tmp_path / "first")


def test_unfinished_shards_are_refused(tmp_path: Path) -> None:
    sample = tar_bytes({"a.jpg": b"", "a.cls": b"00000", "b.jpg": b"", "b.cls": b"00001"})
    write_files(tmp_path, {"train-000000.tar": sample, ".sharding/identity.json": b"{}"})
    with pytest.raises(UsageError, match="holds shards of alexnet-fast that are not finished"):
        find_source(tmp_path)


def test_shards_inside_another_source_are_no_part_of_it(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {f"{name}/{i}.jpg": jpeg(i) for name in ("cat", "dog") for i in range(2)})
    run(tmp_path / "in", tmp_path / "in" / "shards")
    source = find_source(tmp_path / "in")
    assert len(source.table) == 4 and not source.unused
    assert any("1 folder of shards that this program made ('shards')" in note for note in source.notes)


def test_what_was_understood_is_printed_and_a_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {f"train/c{i:02d}/1.jpg": jpeg(i) for i in range(12)} | {"val/c00/2.jpg": jpeg(1), "val/loose.jpg": jpeg(2)}
    write_files(tmp_path / "in", tree)
    words = ["shard", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--dry-run"])
    message = capsys.readouterr().out
    assert ended.value.code == 3 and not (tmp_path / "out").exists()
    for line in (
        "format: folders",
        "splits: train 12, val 1",
        "classes: 12 (0 c00, 1 c01, 2 c02, …, 9 c09, 10 c10, 11 c11)",
        "labels: folder names",
        "warning: The val split has no image of 11 classes that train has ('c01', 'c02', 'c03' and 8 more).",
        "not used: 1 in val: images in no class folder, without a label",
        "Nothing was written (--dry-run).",
    ):
        assert line in message, message
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 3 and "Not used: 1 image or file, named above." in capsys.readouterr().out
    before = digests(tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main(words)  # all is done already, and the code stays
    assert ended.value.code == 3 and digests(tmp_path / "out") == before


@pytest.mark.parametrize(
    "name",
    ["a-2.tar.part", "x.zip.crdownload", "cat/2.jpg.part", "a.tar.gz.aa", "a.7z.001", "data.tar.partial", "b.tar.tmp"],
)
def test_unfinished_downloads_are_refused(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"", "dog/1.jpg": b"", name: b"half"})
    with pytest.raises(UserError, match=r"is a download that is not finished|is a piece of an archive"):
        find_source(tmp_path)


def test_broken_links_to_folders_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"", "dog/1.jpg": b""})
    (tmp_path / "cow").symlink_to("/mnt/gone/cow")
    with pytest.raises(UserError, match="cow: is a broken link"):
        find_source(tmp_path)


FOREIGN = ["cat/._1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/Thumbs.db", "cat/.DS_Store", "desktop.ini",
           "cat/.ipynb_checkpoints/1-checkpoint.jpg", "__MACOSX/cat/._1.jpg", "cat/.AppleDouble/1.jpg", ".git/x.png",
           "cat/.thumbnails/1.png", "#recycle/old.jpg"]  # fmt: skip


def test_foreign_files_in_folders_and_tars(tmp_path: Path) -> None:
    tree = {"cat/1.jpg": jpeg(1), "dog/2.jpg": jpeg(2)} | dict.fromkeys(FOREIGN, b"\0\5\x16\7")
    for source in (
        find_source(write_files(tmp_path / "folders", tree)),
        find_source(write_files(tmp_path / "tar", {"all.tar": tar_bytes(tree)}) / "all.tar"),
    ):
        assert [entry.name for entry in source.classes] == ["cat", "dog"] and len(source.table) == 2
        assert not source.unused
    mac: dict[str, bytes] = {}
    for i in range(3):
        mac |= {f"./._{i}.cls": b"\0\5", f"./{i}.cls": b"%d" % (i % 2), f"./._{i}.jpg": b"\0\5", f"./{i}.jpg": jpeg(i)}
    source = find_source(write_files(tmp_path / "wds", {"a.tar": tar_bytes(mac)}))
    assert source.kind == "webdataset" and source.table.label.tolist() == [0, 1, 0] and not source.unused


OTHERS = {
    "x.zip": 1,
    "old/y.rar": 1,
    "more.npz": 1,
    "cat/without_extension": 1,
    "z.tfrecord": 1,
    "cat/photo.jpg_large": 1,
}


def test_what_may_be_data_is_accounted_for(tmp_path: Path) -> None:
    files = {"cat/1.jpg": jpeg(1), "dog/2.jpg": jpeg(2)} | dict.fromkeys(OTHERS, jpeg(3))
    files |= {"cat/notes.txt": b"", "README": b"", "dog/2.xml": b"", "wnids": b"n0"}
    source = find_source(write_files(tmp_path / "folders", files))
    assert {entry.place: entry.count for entry in source.unused} == OTHERS
    source = find_source(write_files(tmp_path / "tar", {"all.tar": tar_bytes(files)}) / "all.tar")
    assert sum(entry.count for entry in source.unused) == len(OTHERS)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train/data-00000-of-00001.arrow": b"", "train/state.json": b"{}"}, r"load_from_disk\(FOLDER\).to_parquet"),
        ({"data/train.h5": b""}, "of the format .h5, which is not read; write its images as files, tars or parquet"),
        ({"images.zip": b""}, "is an archive; unpack it"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_what_to_do(files: dict[str, bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        find_source(write_files(tmp_path, files))
