"""ILSVRC-2012 and 2010 read in place from tars laid out as they are distributed."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sources import tar_index as tar_scan
from alexnet_fast.tools.sources.find import Source, find_source, read_bytes
from alexnet_fast.tools.sources.imagenet import classes_by_wnid, imagenet_classes, validation_labels
from alexnet_fast.tools.storage.output import open_output
from alexnet_fast.tools.storage.work_names import WORK
from tests.tools.fake_sources import (
    WNIDS,
    devkit_2012,
    gzipped_tar,
    ilsvrc2012,
    jpeg,
    meta_mat,
    tar_bytes,
    tar_member,
    tar_of,
    train_tar,
    val_tar,
    write_files,
)


def by_stem(source: Source) -> dict[str, tuple[str, int, bytes]]:
    """Stem -> (split, label, content)."""
    table = source.table
    return {
        table.stem(i): (source.splits[table.split[i]], int(table.label[i]), read_bytes(table.location(i)))
        for i in range(len(table))
    }


def test_both_tars(tmp_path: Path) -> None:
    source = find_source(ilsvrc2012(tmp_path))
    assert source.kind == "ilsvrc2012"
    assert len(source.classes) == 1000
    expected = {
        f"{wnid}_{10 + i}": ("train", classes_by_wnid()[wnid].index, jpeg(100 * number + i))
        for number, wnid in enumerate(WNIDS)
        for i in range(3)
    }
    expected |= {f"ILSVRC2012_val_{1 + i:08d}": ("val", int(validation_labels()[i]), jpeg(1000 + i)) for i in range(5)}
    assert by_stem(source) == expected
    assert source.table.origin(0) == "ILSVRC2012_img_train.tar!n01440764.tar!n01440764_10.JPEG"
    assert "train has 9 of the challenge's 1,281,167 images." in source.notes


def test_known_validation_labels() -> None:
    """The first validation image is a sea snake, ILSVRC2012_ID 490 in the devkit."""
    first = imagenet_classes()[validation_labels()[0]]
    assert (first.wnid, first.ilsvrc2012_id) == ("n01751748", 490)
    assert [entry.wnid for entry in imagenet_classes()] == sorted(entry.wnid for entry in imagenet_classes())


@pytest.mark.parametrize("missing", ["train", "val"])
def test_one_tar_missing(tmp_path: Path, missing: str) -> None:
    ilsvrc2012(tmp_path)
    (tmp_path / f"ILSVRC2012_img_{missing}.tar").unlink()
    source = find_source(tmp_path)
    assert len(source.splits) == 1
    assert any(f"There is no ILSVRC2012_img_{missing}.tar" in note for note in source.notes)


def test_a_tar_by_its_own_path(tmp_path: Path) -> None:
    ilsvrc2012(tmp_path)
    assert find_source(tmp_path / "ILSVRC2012_img_val.tar").splits == ("val",)
    with pytest.raises(UsageError, match="no images in class folders"):
        find_source(tmp_path / "nothing.tar")


def test_val_fraction_out_of_the_train_tar(tmp_path: Path) -> None:
    write_files(tmp_path, {"ILSVRC2012_img_train.tar": train_tar(4)})
    source = find_source(tmp_path, val_fraction=0.25)
    held_out = [(name, content) for name, (split, _, content) in by_stem(source).items() if split == "val"]
    assert len(held_out) == 3
    assert all(content == jpeg(100 * WNIDS.index(name[:9]) + int(name[10:]) - 10) for name, content in held_out)


def test_class_tars(tmp_path: Path) -> None:
    """The train tar unpacked, its class tars not."""
    write_files(tmp_path, {"train.tar": train_tar(), "ILSVRC2012_img_val.tar": val_tar()})
    with tarfile.open(tmp_path / "train.tar") as archive:
        archive.extractall(tmp_path / "train")
    source = find_source(tmp_path)
    whole = find_source(ilsvrc2012(tmp_path / "whole"))
    assert by_stem(source) == by_stem(whole)


def test_scan_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = ilsvrc2012(tmp_path / "source"), open_output(tmp_path / "shards")
    first = find_source(root, cache=cache)
    assert (
        first.scans is not None and not (tmp_path / "shards").exists()
    )  # not before it is sure that the output is ours
    cache.prepare()
    first.scans.save()
    with monkeypatch.context() as patch:
        patch.setattr(tar_scan, "scan", lambda *_: pytest.fail("scanned again"))
        assert find_source(root, cache=cache).fingerprint() == first.fingerprint()
    (root / "ILSVRC2012_img_val.tar").write_bytes(val_tar(4))
    assert len(find_source(root, cache=cache).table) == len(first.table) - 1


@pytest.mark.parametrize("keep", [0, 100, -1000])
def test_a_damaged_scan_is_made_again(tmp_path: Path, keep: int) -> None:
    root, cache = ilsvrc2012(tmp_path / "source"), open_output(tmp_path / "shards")
    first = find_source(root, cache=cache)
    assert first.scans is not None
    cache.prepare()
    first.scans.save()
    kept = sorted((tmp_path / "shards" / WORK).iterdir())
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(file.read_bytes()[:keep])
    assert by_stem(find_source(root, cache=cache)) == by_stem(first)


def test_devkit_agrees(tmp_path: Path) -> None:
    write_files(ilsvrc2012(tmp_path), {"ILSVRC2012_devkit_t12.tar.gz": devkit_2012()})
    assert "agree with the ones built in" in find_source(tmp_path).notes[0]


def test_devkit_unpacked(tmp_path: Path) -> None:
    write_files(ilsvrc2012(tmp_path), {"kit.tar.gz": devkit_2012()})
    with tarfile.open(tmp_path / "kit.tar.gz") as archive:
        archive.extractall(tmp_path)
    assert "agree" in find_source(tmp_path).notes[0]


def test_devkit_differs(tmp_path: Path) -> None:
    labels = validation_labels().tolist()
    labels[7] = (labels[7] + 1) % 1000
    write_files(ilsvrc2012(tmp_path), {"ILSVRC2012_devkit_t12.tar.gz": devkit_2012(labels)})
    with pytest.raises(UserError, match="differences: 0 class ids, 1 label"):
        find_source(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        find_source(tmp_path)


def test_a_damaged_devkit_is_told(tmp_path: Path) -> None:
    write_files(ilsvrc2012(tmp_path), {"kit.tar.gz": devkit_2012()})
    with tarfile.open(tmp_path / "kit.tar.gz") as archive:
        archive.extractall(tmp_path)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    truth = (data / "ILSVRC2012_validation_ground_truth.txt").read_bytes()
    (data / "ILSVRC2012_validation_ground_truth.txt").write_bytes(b"x" + truth)
    with pytest.raises(UserError, match=r"its ILSVRC2012_validation_ground_truth\.txt is damaged .*Get it again"):
        find_source(tmp_path)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_bytes(truth)
    (data / "meta.mat").write_bytes((data / "meta.mat").read_bytes()[:300])
    with pytest.raises(UserError, match=r"its data/meta\.mat is damaged .*Get it again"):
        find_source(tmp_path)


def test_cut_tars(tmp_path: Path) -> None:
    """Inside a member, and between two, where the rest would be lost silently."""
    root = ilsvrc2012(tmp_path)
    file = root / "ILSVRC2012_img_val.tar"
    whole = file.read_bytes()
    os.truncate(file, len(jpeg(1000)) // 2 + 512)
    with pytest.raises(UserError, match=r"val\.tar: cut inside a member"):
        find_source(root)
    file.write_bytes(whole[: 512 + -(-len(jpeg(1000)) // 512) * 512])
    with pytest.raises(UserError, match="without a tar's end mark"):
        find_source(root)
    file.write_bytes(b"<html>please log in</html>" * 100)
    with pytest.raises(UserError, match="no tar header"):
        find_source(root)


def test_a_tar_that_is_a_link_to_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_train.tar").symlink_to("gone")
    with pytest.raises(UserError, match=r"train\.tar: is a broken link"):
        find_source(tmp_path, cache=open_output(tmp_path / "shards"))


def test_tar_cut_after_the_scan(tmp_path: Path) -> None:
    source = find_source(ilsvrc2012(tmp_path))
    os.truncate(tmp_path / "ILSVRC2012_img_val.tar", 700)
    with pytest.raises(UserError, match="cut or replaced"):
        read_bytes(source.table.location(len(source.table) - 1))


def test_foreign_class(tmp_path: Path) -> None:
    foreign = tar_bytes({"n99999999.tar": tar_bytes({"n99999999_1.JPEG": jpeg(1)})})
    with pytest.raises(UserError, match=r"n99999999\.tar is no class of the challenge"):
        find_source(write_files(tmp_path, {"ILSVRC2012_img_train.tar": foreign}))
    with pytest.raises(UserError, match="whose number has no label"):
        find_source(
            write_files(
                tmp_path,
                {"ILSVRC2012_img_train.tar": train_tar(), "ILSVRC2012_img_val.tar": tar_bytes({"x.JPEG": b""})},
            )
        )


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_scan_agrees_with_tarfile(tmp_path: Path, form: int) -> None:
    names = ["a.jpg", "folder/b.jpg", "x" * 90 + "/" + "y" * 90 + ".jpg", "empty.jpg"]
    if form != tarfile.USTAR_FORMAT:
        names += ["z" * 300 + ".jpg", "ü/写真.jpg"]
    file = tmp_path / "x.tar"
    file.write_bytes(tar_bytes({name: b"" if name == "empty.jpg" else name.encode() * 50 for name in names}, form))
    with tarfile.open(file) as archive:
        expected = [(member.name.encode(), member.offset_data, member.size) for member in archive]
    assert [tuple(member[:3]) for member in tar_scan.scan_tar(str(file))] == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_are_what_they_lead_to(tmp_path: Path, form: int) -> None:
    """As tarfile follows them; what has no bytes in the tar is listed without any."""
    long = "d/" + "y" * 80 + ".jpg" if form == tarfile.USTAR_FORMAT else "d/" + "z" * 200 + ".jpg"
    members = [
        tar_member("before.jpg", kind=tarfile.SYMTYPE, target="d/a.jpg"),
        tar_member("d/", kind=tarfile.DIRTYPE),
        tar_member("./d/a.jpg", b"a" * 700),
        tar_member(long, b"long"),
        tar_member("hard.jpg", kind=tarfile.LNKTYPE, target="./d/a.jpg"),
        tar_member("e/soft.jpg", kind=tarfile.SYMTYPE, target="../d/a.jpg"),
        tar_member("chain.jpg", kind=tarfile.SYMTYPE, target="./e/../hard.jpg"),
        tar_member("far.jpg", kind=tarfile.LNKTYPE, target=long),
        tar_member("out.jpg", kind=tarfile.SYMTYPE, target="../elsewhere.jpg"),
        tar_member("self.jpg", kind=tarfile.SYMTYPE, target="self.jpg"),
        tar_member("folder.jpg", kind=tarfile.SYMTYPE, target="d"),
        tar_member("pipe.jpg", kind=tarfile.FIFOTYPE),
        tar_member("last.jpg", b"last"),
    ]
    file = tmp_path / "x.tar"
    file.write_bytes(tar_of(members, form))
    whole = file.read_bytes()
    found = {m.name.decode(): whole[m.offset : m.offset + m.size] if m.offset != tar_scan.NOWHERE else None
             for m in tar_scan.scan_tar(str(file))}  # fmt: skip
    nowhere = {"out.jpg", "self.jpg", "folder.jpg", "pipe.jpg"}
    with tarfile.open(file) as archive:
        names = [member.name for member, _ in members if member.type != tarfile.DIRTYPE]
        assert list(found) == names
        for name in set(names) - nowhere - {"chain.jpg"}:
            followed = archive.extractfile(name)
            assert followed is not None and found[name] == followed.read()
    assert found["chain.jpg"] == b"a" * 700
    assert {name for name, content in found.items() if content is None} == nowhere


@pytest.mark.parametrize("lines", [b"0 path=a\n", b"-9 path=a\n", b"12path=a", b"12 size=-512\n"])
def test_a_damaged_pax_header_is_told(tmp_path: Path, lines: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind, content in (("pax", tarfile.XHDTYPE, lines), ("a.jpg", tarfile.REGTYPE, b"a")):
            member, _ = tar_member(name, content, kind)
            archive.addfile(member, io.BytesIO(content))
    if lines.startswith(b"-"):  # no length at all: the header says nothing
        assert [member.name for member in tar_scan.scan_tar(str(tmp_path / "x.tar"))] == [b"a.jpg"]
        return
    with pytest.raises(UserError, match=r"x\.tar: the header at byte [\d,]+ is damaged"):
        list(tar_scan.scan_tar(str(tmp_path / "x.tar")))


def test_links_and_loose_files_in_the_train_tar_are_accounted_for(tmp_path: Path) -> None:
    inner = tar_of(
        [
            tar_member("./n01440764_1.JPEG", jpeg(1)),
            tar_member("n01440764_2.JPEG", kind=tarfile.LNKTYPE, target="./n01440764_1.JPEG"),
            tar_member("n01440764_3.JPEG", kind=tarfile.SYMTYPE, target="/mnt/3.JPEG"),
        ]
    )
    outer = tar_bytes({"n01440764.tar": inner, "loose.JPEG": jpeg(2), "README": b""})
    source = find_source(write_files(tmp_path, {"ILSVRC2012_img_train.tar": outer}))
    assert {stem: row[2] for stem, row in by_stem(source).items()} == dict.fromkeys(
        ("n01440764_1", "n01440764_2"), jpeg(1)
    )
    reasons = {(entry.place, entry.count): entry.reason for entry in source.unused}
    assert set(reasons) == {("ILSVRC2012_img_train.tar", 1)} and len(source.unused) == 2
    assert {entry.reason[:23] for entry in source.unused} == {"images in no class tar", "images without bytes in"}
    assert any("1 file in ILSVRC2012_img_train.tar, no images" in note for note in source.notes)


CLASSES_2010 = {1: ("n03126707", "crane"), 2: ("n01440764", "tench, Tinca tinca"), 3: ("n02012849", "crane, bird")}


def ilsvrc2010(root: Path, **without: bool) -> Path:
    tars = {
        "ILSVRC2010_images_train.tar": train_tar(),
        "ILSVRC2010_images_val.tar": tar_bytes({f"val/ILSVRC2010_val_{i:08d}.JPEG": jpeg(i) for i in (2, 1, 3)}),
        "ILSVRC2010_images_test.tar": tar_bytes({f"test/ILSVRC2010_test_{i:08d}.JPEG": jpeg(10 + i) for i in (1, 2)}),
        "ILSVRC2010_test_ground_truth.txt": b"3\n1\n",
        "ILSVRC2010_devkit-1.0.tar.gz": gzipped_tar(
            {
                "devkit-1.0/data/meta.mat": meta_mat("ILSVRC2010_ID", CLASSES_2010),
                "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt": b"1\n2\n3\n",
            }
        ),
    }
    return write_files(root, tars)


def test_2010(tmp_path: Path) -> None:
    source = find_source(ilsvrc2010(tmp_path))
    assert source.kind == "ilsvrc2010"
    assert source.splits == ("train", "val", "test")
    assert [(entry.name, entry.words) for entry in source.classes] == [
        ("n01440764", "tench"),
        ("n02012849", "crane"),
        ("n03126707", "crane"),
    ]
    found = by_stem(source)
    assert found["n02012849_11"] == ("train", 1, jpeg(101))
    assert {name: found[name] for name in found if "_val_" in name} == {
        "ILSVRC2010_val_00000001": ("val", 2, jpeg(1)),
        "ILSVRC2010_val_00000002": ("val", 0, jpeg(2)),
        "ILSVRC2010_val_00000003": ("val", 1, jpeg(3)),
    }
    assert found["ILSVRC2010_test_00000001"] == ("test", 1, jpeg(11))
    assert found["ILSVRC2010_test_00000002"] == ("test", 2, jpeg(12))


def test_2010_patches(tmp_path: Path) -> None:
    """The published replacements for broken images are used where they lie beside the tars."""
    ilsvrc2010(tmp_path)
    names = ["train/n01440764_10.JPEG", "val/ILSVRC2010_val_00000002.JPEG"]
    patches = tar_bytes({f"patch_images/{name}": jpeg(77 + i) for i, name in enumerate(names)})
    source = find_source(write_files(tmp_path, {"patch_images.tar": patches}))
    found = by_stem(source)
    assert found["n01440764_10"] == ("train", 0, jpeg(77))
    assert found["ILSVRC2010_val_00000002"] == ("val", 0, jpeg(78))
    assert len(found) == 14
    assert any("Taken from patch_images.tar instead: 2 images" in note for note in source.notes)


def test_2010_without_devkit_or_truth(tmp_path: Path) -> None:
    ilsvrc2010(tmp_path)
    (tmp_path / "ILSVRC2010_test_ground_truth.txt").unlink()
    source = find_source(tmp_path)
    assert source.splits == ("train", "val")
    assert any("no ILSVRC2010_test_ground_truth.txt, so test is skipped" in note for note in source.notes)
    (tmp_path / "ILSVRC2010_devkit-1.0.tar.gz").unlink()
    source = find_source(tmp_path)
    assert source.splits == ("train",)
    assert [entry.words for entry in source.classes] == sorted(WNIDS)
    (tmp_path / "ILSVRC2010_images_train.tar").unlink()
    with pytest.raises(UserError, match="nothing can be labeled"):
        find_source(tmp_path)


def test_gzipped_meta_is_not_needed_for_2012(tmp_path: Path) -> None:
    """A devkit that holds something else is named, not guessed at."""
    wrong = gzip.compress(b"text")
    write_files(ilsvrc2012(tmp_path), {"ILSVRC2012_devkit_t12.tar.gz": wrong})
    with pytest.raises(UserError, match="Get it again, or move it away"):
        find_source(tmp_path)
