"""What is no file, no number or no shards folder is shown where it is read, and nothing is waited for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO

import numpy as np
import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.tools.dataset import Dataset, manifest_checksum
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import open_file, unreadable
from tests.tools.shard_helpers import digests, run

SECONDS = 60
"""After which what hangs is ended."""


@pytest.fixture(autouse=True)
def end() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(unbroken: Path, tmp_path: Path) -> Path:
    """Shards that a test may damage."""
    return Path(shutil.copytree(unbroken, tmp_path / "shards"))


def put(oddity: str, place: Path) -> None:
    """Something that is no file, in the place of one."""
    place.unlink()
    if oddity == "folder":
        place.mkdir()
    elif oddity == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    """(exit code, everything shown) of `alexnet-fast arguments…`."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in arguments])
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out + shown.err


NAMES = ["dataset.json", "sources.tsv", "_info.json", "mean_image.npy", "train-000001.idx", "train-000001.tar"]


@pytest.mark.parametrize("oddity", ["folder", "pipe", "device"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_is_not_read(
    name: str, oddity: str, folder: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(oddity, folder / name)
    what = "it is a folder, not a file" if oddity == "folder" else "it is a pipe or a device, not a file"
    code, shown = call(capsys, "verify", folder, "--workers", 1)
    assert (code, f"{name}: cannot be read ({what})" in shown) == (1 if name == "dataset.json" else 3, True), shown
    code, shown = call(capsys, "info", folder)
    assert (code, what in shown) == ((1, True) if name == "dataset.json" else (0, False)), shown
    code, shown = call(capsys, "shard", images, "--out", folder, "--shard-size", 10, "--workers", 1)
    if name == "train-000001.tar" and oddity != "folder":  # of another size than it should be: made anew
        assert code == 3, shown
    else:
        assert code == 1 and f"{folder / name}: cannot be" in shown, shown


@pytest.mark.parametrize("oddity", ["folder", "pipe", "device"])
def test_what_training_reads_is_a_file(oddity: str, folder: Path) -> None:
    dataset = Dataset.load(folder)
    put(oddity, folder / "mean_image.npy")
    with pytest.raises(UserError, match=r"mean_image\.npy: cannot be read \(it is a"):
        print(dataset.mean_image)
    put(oddity, folder / "train-000003.idx")
    with pytest.raises(UserError, match=r"train-000003\.idx: cannot be read \(it is a"):
        dataset.check_sizes()
    put(oddity, folder / "train-000001.tar")
    with pytest.raises(UserError, match=r"train-000001\.tar: cannot be read \(it is a"):
        dataset.check_sizes()


def test_an_index_is_read_again_only_where_it_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.load(folder)
    read: list[Path] = []

    def open_and_note(file: Path) -> IO[bytes]:
        read.append(file)
        return open_file(file)

    monkeypatch.setattr("alexnet_fast.tools.dataset.open_file", open_and_note)
    dataset.check_sizes()
    assert sorted(read) == sorted(folder.glob("*.idx"))
    read.clear()
    dataset.check_sizes()
    assert read == []
    file = folder / "train-000003.idx"
    times, content = file.stat(), file.read_bytes()
    file.write_bytes(content.replace(b"jpg", b"png"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # only its content shows it, and the inode's own time
    with pytest.raises(UserError, match=r"train-000003\.idx: is not what was written"):
        dataset.check_sizes()
    file.write_bytes(content)
    dataset.check_sizes()
    assert read == [file, file]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 256])
def test_a_mean_image_of_no_pixels_is_refused(value: float, folder: Path) -> None:
    mean = np.load(folder / "mean_image.npy")
    mean[3, 4, 1] = value
    np.save(folder / "mean_image.npy", mean)
    with pytest.raises(UserError, match=r"mean_image\.npy: holds values that are not within 0 and 255\..*shard"):
        print(Dataset.load(folder).mean_image)


@pytest.mark.parametrize("garbage", [b"", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4', ", b"\x93NUMPY" + bytes(200)])
def test_a_mean_image_of_other_bytes_is_told(garbage: bytes, folder: Path) -> None:
    (folder / "mean_image.npy").write_bytes(garbage)
    with pytest.raises(UserError, match=r"mean_image\.npy: cannot be read"):
        print(Dataset.load(folder).mean_image)


@pytest.mark.parametrize(
    ("keys", "value", "arguments"),
    [
        (("splits",), {}, "it has no split"),
        (("splits", "train", "shards"), [], "its split train has no shard"),
        (("splits", "train", "shards", 0, "name"), "../train-000000.tar", "is no shard's name"),
        (("splits", "train", "shards", 0, "samples"), 0, "has no samples"),
        (("splits", "train", "samples"), 58, "its split train has 58 samples, its shards have"),
        (("splits", "train", "shards", 0, "sha256"), "\ud800", "is no sha256"),
        (("classes",), [], "it has no class"),
        (("program",), "\x1b[2J", "is no plain text"),
        (("statistics", "mean_rgb"), [1, float("nan"), 2], "a statistic is not finite"),
    ],
)
def test_a_manifest_that_nothing_can_be_made_of(
    keys: tuple[str | int, ...], value: object, arguments: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / "dataset.json").write_text(json.dumps(content))
    for verb in ("info", "verify", "preview"):
        code, shown = call(capsys, verb, folder)
        assert code == 1 and arguments in shown and "Bring it back from a copy" in shown, shown


def test_a_manifest_from_before_there_were_notes_is_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    del content["notes"]
    content["checksum"] = manifest_checksum(content)
    (folder / "dataset.json").write_text(json.dumps(content))
    assert Dataset.load(folder).notes == ()
    assert call(capsys, "verify", folder, "--workers", 1)[0] == 0


def test_a_manifest_of_version_1_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version 0.1 called the image options "picture", the skipped images "left_out", and could not tell damage."""
    before = Dataset.load(folder)
    before = replace(before, image_options=replace(before.image_options, damaged="keep"))
    content = json.loads((folder / "dataset.json").read_text())
    content["version"] = 1
    content["options"]["picture"] = content["options"].pop("image_options")
    del content["options"]["picture"]["damaged"], content["files"]["_info.json"]
    for holder in (content, content["accounting"]):
        holder["left_out"] = holder.pop("skipped")
    content["checksum"] = manifest_checksum(content)
    (folder / "dataset.json").write_text(json.dumps(content))
    hashes = {name: value for name, value in before.file_hashes.items() if name != "_info.json"}
    assert Dataset.load(folder).to_json() == replace(before, file_hashes=hashes).to_json()
    code, output = call(capsys, "verify", folder)
    assert code == 0, output


@pytest.mark.parametrize("damage", [Path.unlink, lambda manifest: manifest.write_bytes(b"{")])
def test_without_its_manifest_all_verbs_say_the_same_and_it_works(
    damage: object, folder: Path, images: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (folder / "dataset.json").read_bytes()
    damage(folder / "dataset.json")  # type: ignore[operator]
    for arguments in (("verify", folder), ("preview", folder), ("shard", images, "--out", folder, "--shard-size", 10)):
        code, shown = call(capsys, *arguments)
        assert code in (1, 2) and "copy; without one, shard again into a new --out" in shown, shown
    assert run(images, tmp_path / "new").made_shards == 8
    assert digests(tmp_path / "new") == digests(unbroken)
    (folder / "dataset.json").write_bytes(kept)
    assert call(capsys, "verify", folder)[0] == 0


def test_what_is_no_shards_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "link").symlink_to("gone")
    for verb in ("info", "verify", "preview"):
        code, shown = call(capsys, verb, folder / "train-000000.tar")
        assert code == 2 and f"is one file. Give the shards folder that holds it, such as {folder}" in shown, shown
        code, shown = call(capsys, verb, "")
        assert code == 2 and "is empty" in shown, shown
    for place, arguments in (
        (folder / "train-000000.tar", f"is one file. Give the shards folder that holds it, such as {folder}"),
        (tmp_path / "letter", "is a file. Give a shards folder"),
        (tmp_path / "link", "is a link that leads nowhere"),
        (tmp_path / "no where", f"--out '{tmp_path}/no where'` makes it"),
    ):
        with pytest.raises(UsageError, match=arguments):
            Dataset.load(place)
    (folder / "dataset.json").unlink()
    (folder / ".sharding").mkdir()
    with pytest.raises(UsageError, match=r"not finished.*Run the command that began them again"):
        Dataset.load(folder)


def test_what_may_not_be_read_is_no_matter_of_copies(tmp_path: Path) -> None:
    shown = str(unreadable(tmp_path / "x", PermissionError(13, "Permission denied"), "Get it again."))
    assert (
        shown
        == f"{tmp_path}/x: cannot be read (Permission denied). Change its permissions, or those of a folder above it."
    )
    assert str(unreadable("x", OSError(5, "Input/output error"), "Get it again.")).endswith("error). Get it again.")
