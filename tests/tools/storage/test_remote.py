"""The same bytes through an S3 protocol server."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.demo.data import DemoData, draw_dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import Pool, local_pool
from alexnet_fast.tools.sharding.shard import Outcome, shard
from alexnet_fast.tools.sources import tar_index as tar_scan
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.filesystem import open_system, read_range
from alexnet_fast.tools.storage.output import Output, open_output
from alexnet_fast.tools.storage.remote import RemoteOutput, lock_name
from alexnet_fast.tools.storage.work_names import WORK
from tests.tools.fake_sources import jpeg, tar_bytes


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "images"
    draw_dataset(folder, DemoData(num_train=5, num_val=2))
    return folder


def run(source: str | Path, output: Output, pool: Any = None) -> Outcome:
    found = find_source(str(source), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(found, ShardOptions(shard_size=8))
    return shard(plan, output, pool or partial(local_pool, 1), strict=False, watch=lambda progress: None)


def contents(output: Output) -> dict[str, bytes]:
    found = {name: output.read(name) for name in output.names()}
    return {name: content for name, content in found.items() if content is not None}


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = open_output(tmp_path_factory.mktemp("local") / "shards")
    run(images, output)
    return contents(output)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server on loopback with one bucket."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "someone")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import fsspec

    fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
    yield "s3://bucket"
    patch.undo()
    server.stop()


def test_shards_in_s3_are_the_local_ones(bucket: str, images: Path, expected: dict[str, bytes]) -> None:
    output = open_output(f"{bucket}/shards")
    run(images, output)
    assert contents(output) == expected
    assert run(images, output).made_shards == 0


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """(exit code, all that was said) of `alexnet-fast arguments…`."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out + shown.err


def test_the_next_steps_after_s3_are_told_and_work(
    bucket: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/shown/shards"
    code, shown = call(capsys, "shard", images, "--out", url, "--workers", 1)
    assert code == 3
    copy = f"aws s3 sync {url} shards"
    train = "alexnet-fast train shards --recipe demo --epochs 90"
    assert f"Next:\n  alexnet-fast info {url}\n  {copy}\n  {train}\n" in shown
    local = tmp_path / "shards"
    assert call(capsys, "shard", images, "--out", local, "--workers", 1)[0] == 3
    assert call(capsys, "info", url) == (0, call(capsys, "info", local)[1].replace(str(local), url))
    assert call(capsys, "info", f"{bucket}/nowhere") == (2, f"alexnet-fast: {bucket}/nowhere: no shards folder, it has "
        "no dataset.json. Give the folder that `alexnet-fast shard` wrote.\n")  # fmt: skip
    for arguments in (["train"], ["preview"], ["bench", "loader"]):
        code, shown = call(capsys, *arguments, url)
        assert code == 2 and f"{url}: images are read from a disk" in shown and f"`{copy}`" in shown


def test_shards_in_a_store_are_verified(bucket: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{bucket}/verified"
    output = open_output(url)
    run(images, output)
    arguments = ("verify", url, "--decode", "--workers", 1)
    assert call(capsys, *arguments)[0] == 0
    system, root = open_system(url)
    system.rm_file(f"{root}/val-000000.idx")
    system.rm_file(f"{root}/_info.json")
    tar = bytearray(output.read("train-000001.tar") or b"")
    tar[1000] ^= 1  # in the padding of a label: only the hash shows it
    system.pipe_file(f"{root}/train-000001.tar", bytes(tar))
    system.pipe_file(f"{root}/train-000009.tar", bytes(tar))
    code, shown = call(capsys, *arguments)
    problems = {line.strip() for line in shown.splitlines() if line.startswith("  ")}
    assert code == 3 and problems == {
        "_info.json: is missing",
        "train-000001.tar: is not what was written (sha256 differs)",
        "train-000009.tar: is not in dataset.json, but programs that read *.tar would read it",
        "val-000000.idx: is missing",
    }


def test_a_run_into_s3_that_breaks_off_goes_on(
    bucket: str, images: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = open_output(f"{bucket}/broken")
    made = 0

    class Breaking:
        """A pool that gives up after three shards."""

        num_workers = 1

        def __init__(self, inner: Pool) -> None:
            self.inner = inner

        def submit(self, task: Any) -> Any:
            nonlocal made
            made += 1
            if made > 3:
                raise UserError("the power is off")
            return self.inner.submit(task)

        def counts(self) -> None:
            return None

    class BreakingPool:
        def __enter__(self) -> Breaking:
            self.context = local_pool(1)
            return Breaking(self.context.__enter__())

        def __exit__(self, *error: Any) -> None:
            self.context.__exit__(None, None, None)

    with pytest.raises(UserError, match="the power is off"):
        run(images, output, BreakingPool)
    before = contents(output)
    assert all(expected[name] == content for name, content in before.items())
    assert "dataset.json" not in before
    assert run(images, output).made_shards < len([name for name in expected if name.endswith(".tar")])
    assert contents(output) == expected


def test_images_in_s3_are_read(bucket: str, images: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("s3", use_listings_cache=False).put(f"{images}/", f"{bucket}/images/", recursive=True)
    output = open_output(tmp_path / "shards")
    run(f"{bucket}/images", output)
    tars = {name: content for name, content in contents(output).items() if name.endswith((".tar", ".idx"))}
    assert tars == {name: content for name, content in expected.items() if name.endswith((".tar", ".idx"))}


ODD = ["a::b", "c#1", "d[1]", "e?f=g", "h%20i", "j k", "ü"]


def test_any_name_may_stand_in_a_store(bucket: str, images: Path, tmp_path: Path) -> None:
    system, root = open_system(f"{bucket}/odd::images")
    for number, image in enumerate(sorted(images.rglob("*.JPEG"))[: 2 * len(ODD)]):
        name = ODD[number % len(ODD)]
        local = tmp_path / "images" / name / f"{number} {name}.JPEG"
        local.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, local)
        system.pipe_file(f"{root}/{name}/{local.name}", local.read_bytes())
    local_output, output = open_output(tmp_path / "shards"), open_output(f"{bucket}/{''.join(ODD)}")
    run(tmp_path / "images", local_output)
    run(f"{bucket}/odd::images", output)
    assert contents(output) == contents(local_output)
    assert output.names(WORK) == []


def test_folders_that_are_objects_are_no_files(bucket: str, tmp_path: Path) -> None:
    """As Amazon's console makes folders: an empty object whose key ends in a slash."""
    boto3 = pytest.importorskip("boto3")
    system, path = open_system(f"{bucket}/console")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for key in ("", "cat/", "dog/"):
        client.put_object(Bucket="bucket", Key=f"console/{key}", Body=b"")
    for place in ("cat", "dog"):
        system.pipe_file(f"{path}/{place}/1.jpg", jpeg(1))
    system.pipe_file(f"{path}//1.jpg", jpeg(2))  # two slashes: in a folder without a name
    found = find_source(f"{bucket}/console")
    assert [entry.name for entry in found.classes] == ["cat", "dog"] and len(found.table) == 2
    assert not any("other file" in note for note in found.notes), found.notes
    assert [(entry.place, entry.count) for entry in found.unused] == [("the source itself", 1)]


def test_scan_of_stored_tars_is_kept_in_a_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, root = open_system(f"{bucket}/tars")
    tar = f"{root}/ILSVRC2012_img_val.tar"
    system.pipe_file(tar, tar_bytes({f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(i) for i in (1, 2, 3)}))
    output = RemoteOutput(f"{bucket}/scanned")
    first = find_source(f"{bucket}/tars", cache=output)
    assert first.scans is not None
    first.scans.save()
    with monkeypatch.context() as patch:
        patch.setattr(tar_scan, "scan", lambda *_: pytest.fail("scanned again"))
        assert find_source(f"{bucket}/tars", cache=output).fingerprint() == first.fingerprint()
    system.pipe_file(tar, tar_bytes({f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(i) for i in (1, 2, 4)}))
    assert find_source(f"{bucket}/tars", cache=output).fingerprint() != first.fingerprint()


def test_a_image_is_one_request(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system, root = open_system(f"{bucket}/requests")
    system.pipe_file(f"{root}/some", b"0123456789")
    system.pipe_file(f"{root}/none", b"")
    requests = []
    send = type(system)._call_s3

    async def record(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        requests.append(method)
        return await send(self, method, *arguments, **options)

    monkeypatch.setattr(type(system), "_call_s3", record)
    assert read_range(f"{bucket}/requests/some", 0, None) == b"0123456789"
    assert read_range(f"{bucket}/requests/some", 3, 4) == b"3456"
    assert requests == ["get_object"] * 2
    assert read_range(f"{bucket}/requests/none", 0, None) == b""


def write_lock(output: RemoteOutput, number: int, age: float) -> None:
    holder = {"token": "theirs", "host": "elsewhere", "process": 7, "time": time.time() - age}
    with output.create(lock_name(number)) as file:
        file.write(json.dumps(holder).encode())


def locks(output: RemoteOutput) -> list[str]:
    return [f"{WORK}/{name}" for name in output.names(WORK)]


def test_two_runs_into_one_place_are_refused(bucket: str) -> None:
    output = RemoteOutput(f"{bucket}/locked")
    write_lock(output, 1, age=30)
    with pytest.raises(UserError, match=r"process 7 on elsewhere, last heard of 30 s ago.* again in 60 s"):
        output.take_lock({"token": "ours"})
    write_lock(output, 1, age=3600)
    with output.lock():  # nobody's any more
        assert locks(output) == [lock_name(1), lock_name(2)]
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), output.lock():
            pass
    assert locks(output) == []


@pytest.mark.parametrize("left_over", [False, True], ids=["free", "dead"])
def test_of_two_runs_at_the_same_moment_one_gets_the_lock(
    bucket: str, left_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = RemoteOutput(f"{bucket}/race-{left_over}")
    if left_over:
        write_lock(output, 1, age=3600)
    both_have_looked = threading.Barrier(2, timeout=30)
    look = RemoteOutput.lock_numbers

    def look_together(self: RemoteOutput) -> list[int]:
        found = look(self)
        both_have_looked.wait()
        return found

    monkeypatch.setattr(RemoteOutput, "lock_numbers", look_together)
    with ThreadPoolExecutor(2) as threads:
        taken = [threads.submit(output.take_lock, {"token": str(i), "host": "here", "process": i}) for i in range(2)]
        errors = [future.exception() for future in taken]
    refused = [error for error in errors if error is not None]
    assert len(refused) == 1 and isinstance(refused[0], UserError)
    winner = errors.index(None)
    holder = output.lock_holder(taken[winner].result())
    assert holder is not None and holder["token"] == str(winner)
    assert f"process {winner} on here" in str(refused[0])


@pytest.mark.parametrize("left_over", [False, True], ids=["free", "dead"])
def test_a_lock_taken_since_one_looked_is_not_overwritten(
    bucket: str, left_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = RemoteOutput(f"{bucket}/overtaken-{left_over}")
    if left_over:
        write_lock(output, 1, age=3600)
    look = RemoteOutput.lock_numbers
    taken = []

    def look_and_be_overtaken(self: RemoteOutput) -> list[int]:
        found = look(self)
        monkeypatch.setattr(RemoteOutput, "lock_numbers", look)
        taken.append(output.take_lock({"token": "first", "host": "here", "process": 1}))
        return found

    monkeypatch.setattr(RemoteOutput, "lock_numbers", look_and_be_overtaken)
    with pytest.raises(UserError, match="process 1 on here"):
        output.take_lock({"token": "second", "host": "here", "process": 2})
    holder = output.lock_holder(taken[0])
    assert holder is not None and holder["token"] == "first"


def test_a_run_that_was_silent_leaves_its_successors_lock_alone(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.tools.storage.remote.BEAT_SECONDS", 0.02)
    output = RemoteOutput(f"{bucket}/silent")
    with output.lock():
        first = output.lock_holder(lock_name(1))
        assert first is not None
        deadline = time.monotonic() + 30
        while output.lock_holder(lock_name(1)) == first:  # it beats while the lock is its own
            assert time.monotonic() < deadline
        for _ in range(20):  # a beat that had looked before may still write once
            write_lock(output, 1, age=0)
            theirs = output.read(lock_name(1))
            time.sleep(0.2)
            if output.read(lock_name(1)) == theirs:
                break
        time.sleep(0.5)
        assert output.read(lock_name(1)) == theirs
    assert output.read(lock_name(1)) == theirs


def test_a_full_temporary_folder_is_told(bucket: str) -> None:
    output = RemoteOutput(f"{bucket}/full")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        shown = pytest.raises(UserError, match=r"train\.tar: .*temporary folder.*File too large.*TMPDIR")
        with shown, output.create("train.tar") as file:
            file.write(bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert output.size("train.tar") is None


def test_a_missing_bucket_is_told(bucket: str, images: Path) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket/.*[Bb]ucket"):
        run(images, open_output("s3://no-such-bucket/shards"))


def test_an_unknown_kind_of_url_is_told() -> None:
    with pytest.raises(UsageError, match="cannot be reached from here"):
        open_output("gopher://host/shards")
    with pytest.raises(UsageError, match="chain of URLs"):
        open_output("zip://shards::s3://bucket/all.zip")


def test_a_file_url_is_a_local_path(images: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    run(f"file://{images}", open_output(f"file://{tmp_path}/shards"))
    assert contents(open_output(tmp_path / "shards")) == expected
