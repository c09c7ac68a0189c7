"""Sharding interrupted: killed, stopped, out of space, its source or its workers lost; nothing is left half-done."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sharding.worker import StrictError
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output
from tests.tools.fake_sources import ilsvrc2012, jpeg, tar_bytes, val_tar, write_files
from tests.tools.shard_helpers import digests, run


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "alexnet_fast", "shard", *map(str, arguments)]


def finished(folder: Path) -> dict[str, str]:
    """What lies in the output under a final name; the run's own folder for unfinished work left aside."""
    return {name: digest for name, digest in digests(folder).items() if "/" not in name}


def test_strict_stops_and_can_go_on(images: Path, unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(StrictError, match="cannot be used"):
        run(images, tmp_path / "shards", strict=True)
    assert not (tmp_path / "shards" / "dataset.json").exists()
    run(images, tmp_path / "shards")
    assert digests(tmp_path / "shards") == digests(unbroken)


def test_two_runs_at_once_are_refused(images: Path, tmp_path: Path) -> None:
    output = open_output(tmp_path / "shards")
    with output.lock(), pytest.raises(UserError, match="another `alexnet-fast shard` is writing there"):
        run(images, tmp_path / "shards")


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(images: Path, unbroken: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    folder = tmp_path / "shards"
    whole = digests(unbroken)
    arguments = command(images, "--out", folder, "--shard-size", 10, "--workers", 2)
    for _ in range(5):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(list(folder.glob("*.tar")))
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline and len(list(folder.glob("*.tar"))) == before:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.wait()
        made = finished(folder)
        assert all(whole[name] == digest for name, digest in made.items())  # never a half-written one
    stamps = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.tar")}
    last = subprocess.run(arguments, capture_output=True, text=True)
    assert last.returncode == 3, last.stderr
    assert digests(folder) == whole
    kept = [name for name, stamp in stamps.items() if (folder / name).stat().st_mtime_ns == stamp]
    assert len(kept) >= len(stamps) - 2  # at most those whose record was not written yet are made again


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_between_shards_and_the_message_says_how_to_resume(
    number: signal.Signals, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    process = subprocess.Popen(
        command(images, "--out", folder, "--shard-size", 2, "--workers", 1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may let its background jobs, and so this test, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(folder.glob("*.tar")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in shown
    assert "of 36 shards" in shown and "run the same command again" in shown


@pytest.mark.parametrize(
    "place", ["alexnet_fast.commands.shard_command.find_source", "alexnet_fast.tools.sharding.shard.check_space"]
)
def test_ctrl_c_before_the_work_says_so(
    place: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, stop)
    with pytest.raises(SystemExit) as ended:
        main(["shard", str(images), "--out", str(tmp_path / "shards")])
    shown = capsys.readouterr().err
    assert ended.value.code == 128 + signal.SIGINT
    assert "before the first shard. Run the same command again" in shown and "0 of 0" not in shown


def limit_files(num_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_whole_files_only(images: Path, unbroken: Path, tmp_path: Path) -> None:
    """The system refuses the write in the middle of a tar: here by a limit on files' sizes, as on a full disk."""
    folder = tmp_path / "shards"
    arguments = command(images, "--out", folder, "--shard-size", 10, "--workers", 1)
    sizes = sorted(file.stat().st_size for file in unbroken.glob("train-*.tar"))
    limited = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=partial(limit_files, sizes[1]))
    assert limited.returncode == 1 and "Traceback" not in limited.stderr
    assert "no space left" in limited.stderr and "run the same command again" in limited.stderr
    whole = digests(unbroken)
    assert all(whole[name] == digest for name, digest in finished(folder).items())
    assert subprocess.run(arguments, capture_output=True).returncode == 3
    assert digests(folder) == whole


def test_too_little_space_is_seen_before_the_start(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    with pytest.raises(UserError, match=r"71 images will take about \d\.\d MB, and 2\.0 MB are free"):
        run(images, tmp_path / "shards")
    assert not finished(tmp_path / "shards")
    monkeypatch.undo()
    assert run(images, tmp_path / "shards", image_options=ImageOptions(quality=40)).made_shards == 8


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that nobody may write")
def test_a_folder_that_may_not_be_written(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:  # not even root may make anything there
        main(["shard", str(images), "--out", "/sys/kernel/shards"])
    assert ended.value.code == 1
    assert "may not be written" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which no folder can be made")
def test_a_folder_that_cannot_be_made(images: Path) -> None:
    """Making it fails with "no such file", as the lock's file does when another run removes its folder."""
    arguments = command(images, "--out", "/proc/shards", "--workers", 1)
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "/proc/shards/.sharding: cannot be written (No such file or directory)" in ended.stderr


def test_a_folder_below_a_file_names_the_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(UserError, match=r"/letter: is a file\. Give --out a folder"):
        run(images, tmp_path / "letter" / "shards")


def test_a_vanished_image_is_told_and_nothing_is_lost(images: Path, unbroken: Path, tmp_path: Path) -> None:
    source = tmp_path / "images"
    shutil.copytree(images, source)
    found = find_source(str(source), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(found, ShardOptions(shard_size=10))
    lost = next((source / "val" / "star").iterdir())
    aside = tmp_path / "aside"
    lost.rename(aside)
    output = open_output(tmp_path / "shards")

    def go_on() -> None:
        shard(plan, output, partial(local_pool, 1), strict=False, watch=lambda progress: None)

    with pytest.raises(UserError) as caught:
        go_on()
    assert str(lost) in str(caught.value)
    aside.rename(lost)
    go_on()
    tars = [{name: digest for name, digest in digests(folder).items() if name.endswith(".tar")}
            for folder in (tmp_path / "shards", unbroken)]  # fmt: skip
    assert tars[0] == tars[1]


@pytest.mark.parametrize("keep", [0, 20, -5])
def test_a_damaged_record_counts_as_none(keep: int, images: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with pytest.raises(StrictError):
        run(images, folder, strict=True)
    records = sorted((folder / ".sharding").glob("train-*.done"))
    assert records
    for record in records:
        record.write_bytes(record.read_bytes()[:keep])
    assert run(images, folder).made_shards == 8
    assert digests(folder) == digests(unbroken)


def test_a_damaged_identity_is_told(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with pytest.raises(StrictError):
        run(images, folder, strict=True)
    for garbage in (b"", b"{", b"7", b"[" * 100_000, b"\xff"):
        (folder / ".sharding" / "identity.json").write_bytes(garbage)
        with pytest.raises(UserError, match=r"identity\.json: is missing or damaged.*Remove .*/shards and run again"):
            run(images, folder)


def test_a_killed_worker_is_told_and_made_good(images: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.tar")) and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in multiprocessing.active_children()[:1]:
            os.kill(process.pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    with pytest.raises(UserError, match=r"A worker process was killed.*of 8 shards done: run the same command"):
        run(images, folder, workers=2)
    killer.join()
    run(images, folder)
    assert digests(folder) == digests(unbroken)


def test_shards_inside_their_source_can_be_gone_on_with(
    images: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd imagenet; alexnet-fast shard .` writes to imagenet/shards, whose tars are no source."""
    source = tmp_path / "source"
    shutil.copytree(images, source)
    monkeypatch.chdir(source)
    for options in (["--strict"], [], []):  # stopped at a bad image, finished, done already
        with pytest.raises(SystemExit) as ended:
            main(["shard", ".", "--shard-size", "10", "--workers", "1", *options])
        assert ended.value.code == (1 if options else 3)
        assert list((source / "shards").glob("*.tar"))
    assert digests(source / "shards") == digests(unbroken)
    with pytest.raises(SystemExit) as ended:  # another output beside the first
        main(["shard", ".", "--shard-size", "10", "--workers", "1", "--out", "others"])
    assert ended.value.code == 3
    tars = [{name: digest for name, digest in digests(folder).items() if name.endswith(".tar")}
            for folder in (source / "others", unbroken)]  # fmt: skip
    assert tars[0] == tars[1]


def test_mistakes_with_tars_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their scan is kept beside the output, but not before it is sure that the output is theirs."""
    tars = ilsvrc2012(tmp_path / "tars")
    foreign = tar_bytes({"n99999999.tar": tar_bytes({"n99999999_1.JPEG": jpeg(1)})})
    write_files(tmp_path / "foreign", {"ILSVRC2012_img_train.tar": foreign, "ILSVRC2012_img_val.tar": val_tar()})
    new, made = tmp_path / "new", tmp_path / "made"
    assert run(tars, made).made_shards == 2
    before = digests(tmp_path)
    for arguments, code, shown in (
        ((tars, "--out", new, "--val-fraction", "1.5"), 2, "1.5"),
        ((tars, "--out", new, "--val-fraction", "0.5"), 2, "leave --val-fraction away"),
        ((tars, "--out", new, "--source", "webdataset"), 2, "no sample"),
        ((tmp_path / "foreign", "--out", new), 1, "no class of the challenge"),
        ((tars, "--out", made, "--quality", "40"), 2, "--quality was 95, is 40"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["shard", *map(str, arguments)])
        assert ended.value.code == code and shown in capsys.readouterr().err, arguments
        assert digests(tmp_path) == before and not new.exists()
    stopped = [str(word) for word in command(tars, "--out", new, "--shard-size", 10, "--workers", 1)]
    assert subprocess.run(stopped, preexec_fn=partial(limit_files, 20_000), capture_output=True).returncode == 1
    assert len(list((new / ".sharding").glob("source-scan-*.npz"))) == 2  # the next run need not scan
    assert subprocess.run(stopped, capture_output=True).returncode == 0
    assert digests(new) == digests(made)


def test_mistakes_leave_nothing_behind(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: object) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(["shard", *map(str, arguments)])
        return ended.value.code, capsys.readouterr().err

    for folder in ("classes/empty", "classes/full", "classes/also", "nothing/cat", "nothing/dog", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(next((images / "val" / "star").iterdir()), tmp_path / "classes" / "full")
    shutil.copy(next((images / "val" / "star").iterdir()), tmp_path / "classes" / "also")
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    before = sorted(entry.name for entry in tmp_path.iterdir())
    new = tmp_path / "new"
    for arguments, shown in (
        ((tmp_path / "classes", "--out", new, "--val-fraction", "0.1"), "0.1"),
        ((tmp_path / "nothing", "--out", new, "--val-fraction", "0.5"), "no image"),
        ((tmp_path / "nowhere", "--out", new), "nowhere"),
        ((images, "--out", tmp_path / "mine"), "letter.txt"),
        ((images, "--out", tmp_path / "file"), "is a file"),
        ((images, "--out", new, "--val-fraction", "1.5"), "1.5"),
        ((images, "--out", ""), "--out is empty"),
        (("", "--out", new), "SOURCE is empty"),
        ((images, "--out", tmp_path / "link"), "is a link that leads nowhere"),
        ((images, "--out", new, "--source", "ilsvrc2012"), "holds neither ILSVRC2012_img_train.tar nor"),
        ((images, "--out", new, "--source", "ilsvrc2010"), "holds none of ILSVRC2010_images_train.tar"),
        ((images, "--out", new, "--source", "webdataset"), "no sample"),
        ((images, "--out", new, "--source", "class-tars"), "tar"),
        ((images, "--out", new, "--workers", "99999"), "1<=x<=1024"),
        ((images, "--out", new, "--quality", "0"), "--quality"),
        ((images, "--out", new, "--workers", "0"), "--workers"),
    ):
        code, error = call(*arguments)
        assert code == 2 and shown in error, (arguments, error)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    code, error = call(images, "--out", new, "--strict", "--workers", "1")
    assert code == 1 and "--strict stops" in error
