"""`verify` finds what was altered, lost or doubled."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.tools.dataset import manifest_checksum
from alexnet_fast.tools.sharding.tar_writer import read_samples
from tests.tools.shard_helpers import digests, run


def flip_a_bit(folder: Path) -> str:
    tar = folder / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 4
    tar.write_bytes(content)
    return "train-000001.tar: is not what was written"


def swap_a_label(folder: Path) -> str:
    tar = folder / "val-000000.tar"
    content = bytearray(tar.read_bytes())
    start = content.index(b"0000", 512)
    content[start + 4] = ord("0") + (content[start + 4] - ord("0") + 1) % 10
    tar.write_bytes(content)
    return "val-000000.tar: is not what was written"


def put_a_link(folder: Path) -> str:
    """A link to nowhere, where the first label was."""
    tar = folder / "train-000000.tar"
    with tarfile.open(tar) as archive:
        first = archive.getmembers()[0]
    first.type, first.linkname = tarfile.SYMTYPE, "nowhere"
    content = tar.read_bytes()
    tar.write_bytes(first.tobuf(tarfile.USTAR_FORMAT) + content[512:])
    return f"train-000000.tar: member {first.name!r} is no file"


def write_a_huge_size(folder: Path) -> str:
    """Into a member's header, in base 256."""
    tar = folder / "train-000000.tar"
    with tarfile.open(tar) as archive:
        first = archive.getmembers()[0]
    first.size = 1 << 80
    content = tar.read_bytes()
    tar.write_bytes(first.tobuf(tarfile.GNU_FORMAT) + content[512:])
    return "train-000000.tar: is no tar, or is cut short"


def lose_a_shard(folder: Path) -> str:
    (folder / "train-000003.tar").unlink()
    return "train-000003.tar: is missing"


def close_a_file(folder: Path) -> str:
    (folder / "train-000002.tar").unlink()
    (folder / "train-000002.tar").mkdir()
    return "train-000002.tar: cannot be read"


def move_an_index_line(folder: Path) -> str:
    index = folder / "train-000000.idx"
    lines = index.read_text().splitlines()
    arguments = lines[3].split(" ")
    arguments[1] = str(int(arguments[1]) + 512)
    lines[3] = " ".join(arguments)
    index.write_text("\n".join(lines) + "\n")
    return "train-000000.idx: does not fit its tar (line 4)"


def double_a_sample(folder: Path) -> str:
    shutil.copy(folder / "train-000000.tar", folder / "train-000001.tar")
    return "is in train-000000.tar too"


def add_a_tar(folder: Path) -> str:
    shutil.copy(folder / "train-000000.tar", folder / "train-000099.tar")
    return "train-000099.tar: is not in dataset.json"


def change_the_manifest(folder: Path) -> str:
    content = json.loads((folder / "dataset.json").read_text())
    content["classes"][0][1] = "renamed"
    (folder / "dataset.json").write_text(json.dumps(content))
    return "dataset.json: was changed since it was written"


def change_the_mean(folder: Path) -> str:
    mean = np.load(folder / "mean_image.npy")
    np.save(folder / "mean_image.npy", mean + 1)
    return "mean_image.npy: is not what was written"


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        swap_a_label,
        put_a_link,
        write_a_huge_size,
        lose_a_shard,
        move_an_index_line,
        double_a_sample,
        add_a_tar,
        change_the_manifest,
        change_the_mean,
    ],
)
def test_verify_finds_it(
    damage: Callable[[Path], str], unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(unbroken, folder)
    arguments = damage(folder)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder), "--workers", "1"])
    shown = capsys.readouterr()
    assert ended.value.code == 3
    assert arguments in shown.out + shown.err


@pytest.mark.parametrize(
    ("damage", "removed"),
    [
        (flip_a_bit, "train-000001.tar"),
        (lose_a_shard, None),
        (put_a_link, "train-000000.tar"),
        (move_an_index_line, None),
        (change_the_mean, None),
    ],
)
def test_its_advice_mends_it(
    damage: Callable[[Path], str], removed: str | None, images: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Remove the tar that is bad; run the same command again."""
    folder = tmp_path / "shards"
    shutil.copytree(unbroken, folder)
    damage(folder)
    if removed:
        (folder / removed).unlink()
    run(images, folder)
    assert digests(folder) == digests(unbroken)


def break_a_image(folder: Path) -> str:
    """An image without its JPEG's first bytes, with the shard's hash and the manifest's made to fit again."""
    tar = folder / "train-000000.tar"
    with tar.open("rb") as file:
        sample = next(iter(read_samples(file)))
    content = tar.read_bytes()
    start = content.index(sample.jpeg)
    tar.write_bytes(content[:start] + bytes(20) + content[start + 20 :])
    manifest = json.loads((folder / "dataset.json").read_text())
    text = json.dumps(manifest).replace(sha256(content).hexdigest(), sha256(tar.read_bytes()).hexdigest())
    manifest = json.loads(text)
    manifest["checksum"] = manifest_checksum(manifest)
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return f"train-000000.tar: image {sample.stem}.jpg cannot be decoded"


def test_only_decoding_finds_a_broken_image(unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(unbroken, folder)
    arguments = break_a_image(folder)
    for options, code in (([], 0), (["--decode"], 3)):
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(folder), "--workers", "1", *options])
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == code, shown
    assert arguments in shown.out + shown.err


@pytest.mark.parametrize("options", [[], ["--decode"]])
def test_verify_of_what_is_whole(options: list[str], unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(unbroken), "--workers", "1", *options])
    assert ended.value.code in (0, None), capsys.readouterr()


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (flip_a_bit, "Remove the .tar of each damaged shard and run the same `alexnet-fast shard … --out"),
        (change_the_mean, "1 problem. Run the same `alexnet-fast shard … --out"),
        (close_a_file, "1 problem. Fix what keeps 'train-000002.tar' from being read, or move it away and run the"),
        (add_a_tar, "Move away what is not in dataset.json: 'train-000099.tar'."),
        (change_the_manifest, "dataset.json: Bring it back from a copy; without one, shard again into a new --out."),
    ],
)
def test_the_advice_is_for_what_was_found(
    damage: Callable[[Path], str], advice: str, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my shards"
    shutil.copytree(unbroken, folder)
    damage(folder)
    with pytest.raises(SystemExit):
        main(["verify", str(folder), "--workers", "1"])
    shown = capsys.readouterr().out
    assert advice in shown
    assert "--out" not in advice.replace("new --out", "") or f"--out '{folder}'` again" in shown
