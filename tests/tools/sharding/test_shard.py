"""Sharding as a whole: every image accounted for, and the same bytes however it is done."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.dataset_parts import Unused
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding import acceleration
from alexnet_fast.tools.sharding.image import encode
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions, identity_json
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import IDENTITY, Progress, refuse_others, shard
from alexnet_fast.tools.sharding.statistics import PixelSums
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import LocalOutput, open_output
from alexnet_fast.tools.storage.work_names import WORK
from tests.fuzz.sharding import inline_pool
from tests.tools.fake_sources import jpeg, tar_member, tar_of, write_files
from tests.tools.shard_helpers import digests, run


def test_every_image_is_accounted_for(unbroken: Path, images: Path) -> None:
    dataset = Dataset.load(unbroken)
    assert dataset.accounting() == {"found": 71, "written": 69, "skipped": 2}
    reasons = {note.file: note.reason for note in dataset.skipped}
    assert reasons["train/star/notes.JPEG"].startswith("not an image")
    assert "truncated" in reasons.values()
    assert len(dataset.repaired) == 10 * (4 + 2)  # of each class four oddities in train, two in val
    assert [entry.name for entry in dataset.classes] == sorted(folder.name for folder in (images / "val").iterdir())
    assert dataset.notes == find_source(images).notes == ()
    names = sorted(file.name for file in unbroken.iterdir())
    tars = [name for name in names if name.endswith(".tar")]
    assert names == sorted(
        [
            *tars,
            *(name.replace(".tar", ".idx") for name in tars),
            "README.md",
            "_info.json",
            "dataset.json",
            "mean_image.npy",
            "sources.tsv",
        ]
    )


def test_images_that_are_not_sharded_are_in_the_manifest_too(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "in")
    shutil.copy(next((images / "val" / "star").iterdir()), tmp_path / "in" / "val" / "loose.jpg")
    (tmp_path / "in" / "old.zip").write_bytes(b"PK")
    run(tmp_path / "in", tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.unused == (
        Unused("old.zip", 1, "archives; unpack them"),
        Unused("val", 1, "images in no class folder, without a label"),
    )
    counts = dataset.accounting()
    assert counts["found"] == counts["written"] + counts["skipped"] == len(list((tmp_path / "in").rglob("*.*")))
    assert "not used    1 in val: images in no class folder, without a label" in describe(dataset).splitlines()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("splits", "train", "shards", 0, "bytes"), "x"),
        (("splits", "train", "shards", 0, "sha256"), None),
        (("splits", "train", "shards"), 3),
        (("splits", "train", "samples"), "41"),
        (("options", "image_options", "size"), "256"),
        (("options", "seed"), 0.5),
        (("classes",), [["a", 1]]),
        (("skipped",), {"truncated": "train"}),
        (("notes",), [1]),
        (("files",), {}),
        (("statistics", "mean_rgb"), ["red", 1, 2]),
    ],
)
def test_a_manifest_of_other_types_is_told(path: tuple[Any, ...], value: object, unbroken: Path) -> None:
    content = json.loads((unbroken / "dataset.json").read_bytes())
    Dataset.parse(json.dumps(content).encode(), "shards")
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(UserError, match=r"shards/dataset\.json: is damaged .*Bring it back"):
        Dataset.parse(json.dumps(content).encode(), "shards")


@pytest.mark.parametrize("garbage", [b"", b"[" * 100_000, b"\xff", b"7", b"[]"])
def test_a_manifest_that_is_none_is_told(garbage: bytes) -> None:
    with pytest.raises(UserError, match=r"dataset\.json: is damaged"):
        Dataset.parse(garbage, "shards")


def test_the_statistics_are_numpys(unbroken: Path, images: Path) -> None:
    dataset = Dataset.load(unbroken)
    skipped = {note.file for note in dataset.skipped}
    files = sorted((images / "train").rglob("*.*"))
    used = [file for file in files if file.relative_to(images).as_posix() not in skipped]
    pixels = np.stack([encode(file.read_bytes(), file.name, ImageOptions()).pixels for file in used]).astype(float)
    assert len(used) == dataset.splits["train"].samples
    flat = pixels.reshape(-1, 3)
    statistics = dataset.statistics
    assert dataset.mean_image == pytest.approx(pixels.mean(0), abs=1e-4)
    assert statistics.mean_rgb == pytest.approx(flat.mean(0), rel=1e-12)
    assert statistics.covariance == pytest.approx(np.cov(flat.T, bias=True), rel=1e-9)
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    assert statistics.standard_deviations == pytest.approx(np.sqrt(eigenvalues[::-1]))
    assert np.abs((statistics.directions * eigenvectors[:, ::-1].T).sum(1)) == pytest.approx(np.ones(3))


@pytest.fixture(params=["numpy", "loops"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of summing pixels."""
    monkeypatch.setattr(acceleration, "_loops", None)
    if request.param == "loops":
        acceleration.use_loops_for(acceleration.FEWEST_IMAGES)
        assert acceleration.loops_in_use() is not None


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("size", [256, 300])
def test_sums_over_parts_are_exact(size: int) -> None:
    chance = np.random.default_rng(0)
    drawn = chance.integers(0, 256, (23, size, size, 3), dtype=np.uint8)
    first, second = PixelSums(size), PixelSums(size)
    for number, image in enumerate(drawn):
        (first if number % 3 else second).add(image)
    first.merge(second)
    state = first.state()
    assert np.array_equal(state["pixel_sums"], drawn.sum(0, dtype=np.int64))
    flat = drawn.reshape(-1, 3).astype(np.int64)
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))
    assert state["products"] == [int((flat[:, a] * flat[:, b]).sum()) for a, b in pairs]


@pytest.mark.usefixtures("arithmetic")
def test_sums_of_the_brightest_images_do_not_overflow() -> None:
    sums = PixelSums(257)
    for _ in range(300):
        sums.add(np.full((257, 257, 3), 255, np.uint8))
    state = sums.state()
    assert (state["pixel_sums"] == 300 * 255).all()
    assert state["products"] == [300 * 257 * 257 * 255 * 255] * 6


def test_compiled_loops_make_the_same_bytes(
    images: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two arithmetics a worker uses depends on how many images it makes."""
    monkeypatch.setattr(acceleration, "_loops", None)
    acceleration.use_loops_for(acceleration.FEWEST_IMAGES)
    run(images, tmp_path / "shards", pool=inline_pool)
    assert digests(tmp_path / "shards") == digests(unbroken)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_makes_the_same_bytes(workers: int, images: Path, unbroken: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "shards", workers=workers)
    assert digests(tmp_path / "shards") == digests(unbroken)


def test_another_seed_is_another_order(images: Path, unbroken: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "shards", seed=1)
    assert Dataset.load(tmp_path / "shards").fingerprint != Dataset.load(unbroken).fingerprint


def test_a_validation_split_is_drawn(images: Path, tmp_path: Path) -> None:
    dataset = run(images / "train", tmp_path / "shards", val_fraction=0.2).dataset
    assert {name: split.found for name, split in dataset.splits.items()} == {"train": 41, "val": 10}


def test_what_is_done_is_not_done_again(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    first = run(images, folder)
    stamps = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    second = run(images, folder)
    assert (first.made_shards, second.made_shards) == (8, 0)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == stamps
    before = digests(folder)
    (folder / "train-000002.tar").unlink()
    assert run(images, folder).made_shards == 1
    assert digests(folder) == before


def cut_an_index(folder: Path) -> None:
    index = folder / "train-000001.idx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))


def change_the_mean(folder: Path) -> None:
    np.save(folder / "mean_image.npy", np.load(folder / "mean_image.npy") + 1)


@pytest.mark.parametrize(
    ("damage", "made"),
    [
        (cut_an_index, 1),
        (lambda folder: (folder / "val-000000.idx").unlink(), 1),
        (lambda folder: (folder / "_info.json").unlink(), 0),
        (lambda folder: (folder / "sources.tsv").write_bytes(b""), 0),
        (lambda folder: (folder / "mean_image.npy").unlink(), 6),
        (change_the_mean, 6),
    ],
)
def test_what_is_damaged_is_made_again(
    damage: Callable[[Path], Any], made: int, images: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(unbroken, folder)
    damage(folder)
    assert digests(folder) != digests(unbroken)
    outcome = run(images, folder)
    assert outcome.made_shards == made
    assert len(outcome.repaired_files) == (made != 1)
    assert digests(folder) == digests(unbroken)


def test_mending_the_mean_can_be_interrupted(images: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(unbroken, folder)
    (folder / "mean_image.npy").unlink()
    plan = Plan(find_source(images), ShardOptions(shard_size=10))

    def stop(progress: Progress) -> None:
        if progress.shards == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard(plan, open_output(folder), partial(local_pool, 1), strict=False, watch=stop)
    assert 1 < run(images, folder).made_shards < 6
    assert digests(folder) == digests(unbroken)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"seed": 3}, "seed"),
        ({"shard_size": 11}, "shard"),
        ({"image_options": ImageOptions(quality=80)}, "quality"),
        ({"image_options": ImageOptions(exif="ignore")}, "exif"),
    ],
)
def test_other_options_are_refused(options: dict[str, Any], arguments: str, images: Path, unbroken: Path) -> None:
    before = digests(unbroken)
    with pytest.raises(UsageError, match=f"other input or options:.*{arguments}"):
        run(images, unbroken, **options)
    assert digests(unbroken) == before


def sources(folder: Path) -> dict[str, bytes]:
    """Sample -> source name in bytes, out of sources.tsv."""
    head, *lines = (folder / "sources.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert head == "sample\tshard\tsource"
    rows = [line.split("\t") for line in lines]
    assert all(f"{stem}.cls".encode() in (folder / shard).read_bytes() for stem, shard, _ in rows)
    return {stem: unescaped(source) for stem, _, source in rows}


def unescaped(text: str) -> bytes:
    """Python's own reading of the escapes; \\xff below is a byte, every other character is UTF-8."""
    parts = re.split(r"(\\\\|\\x[89a-f][0-9a-f])", text)
    read = [ast.literal_eval(f"b'{part}'") if number % 2 else ast.literal_eval(f'"""{part}"""').encode()
            for number, part in enumerate(parts)]  # fmt: skip
    return b"".join(read)


def test_the_table_leads_back_to_every_name(tmp_path: Path) -> None:
    names = [
        b"\xff.jpg",
        b"\\xff.jpg",
        b"\xc2\x85.jpg",
        b"\x85.jpg",
        b"\\u0085.jpg",
        b"a\n.jpg",
        b"a\\n.jpg",
        b"\t\x1b[31m.jpg",
    ]
    places = [(b"dog/" if number % 2 else b"cat/") + name for number, name in enumerate(names)]
    write_files(tmp_path / "in", {os.fsdecode(place): jpeg(i) for i, place in enumerate(places)})
    run(tmp_path / "in", tmp_path / "out")
    assert sorted(sources(tmp_path / "out").values()) == sorted(places)


def test_two_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    members = [("cat/a.jpg", b"no image"), ("dog/b.jpg", jpeg(1)), ("cat/a.jpg", jpeg(2))]
    tar = tar_of([tar_member(name, content) for name, content in members])
    dataset = run(write_files(tmp_path / "in", {"0.tar": tar}), tmp_path / "out").dataset
    assert dataset.accounting() == {"found": 3, "written": 2, "skipped": 1}
    assert sorted(sources(tmp_path / "out").values()) == [b"0.tar!cat/a.jpg", b"0.tar!dog/b.jpg"]


def test_names_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(
        tmp_path / "in", {"cat/1.jpg": jpeg(1), "dog/1.jpg": jpeg(2)} | {"cat/\x1b[2J\nskipped: dog.jpg": b"no image"}
    )
    with pytest.raises(SystemExit) as ended:
        main(["shard", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"])
    shown = capsys.readouterr().out
    assert ended.value.code == 3
    assert "\x1b" not in shown
    assert r"skipped: cat/\x1b[2J\nskipped: dog.jpg: not an image" in shown


def test_another_source_is_refused(images: Path, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "other")
    (tmp_path / "other" / "train" / "star" / "notes.JPEG").unlink()
    with pytest.raises(UsageError, match="other input or options"):
        run(tmp_path / "other", unbroken)


class EndsMeanwhile(LocalOutput):
    """An output that another run, which has made all shards, completes just before the nth look at it."""

    def __init__(self, folder: Path, manifest: bytes, number: int) -> None:
        super().__init__(folder)
        self.manifest, self.left = manifest, number

    def look(self) -> None:
        self.left -= 1
        if self.left == 0:
            (self.folder / "dataset.json").write_bytes(self.manifest)
            shutil.rmtree(self.folder / WORK)

    def names(self, folder: str = "") -> list[str]:
        self.look()
        return super().names(folder)

    def size(self, name: str) -> int | None:
        self.look()
        return super().size(name)

    def read(self, name: str) -> bytes | None:
        self.look()
        return super().read(name)


def test_an_output_that_another_run_completes_meanwhile_is_not_called_damaged(
    images: Path, unbroken: Path, tmp_path: Path
) -> None:
    """The user was to remove it, for nobody knew what it was made of."""
    source = find_source(str(images), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(source, ShardOptions(shard_size=10))
    manifest = (unbroken / "dataset.json").read_bytes()
    for number in count(1):
        output = EndsMeanwhile(tmp_path / str(number), manifest, number)
        shutil.copytree(unbroken, output.folder, ignore=shutil.ignore_patterns("dataset.json"))
        (output.folder / WORK).mkdir()
        (output.folder / IDENTITY).write_bytes(identity_json(plan.identity))
        refuse_others(plan, output)
        if output.left > 0:
            break
    assert number > 4


def test_other_images_of_the_same_names_are_another_source(images: Path, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "other")
    assert run(tmp_path / "other", unbroken).made_shards == 0  # a copy is the same source
    changed = next((tmp_path / "other" / "val" / "star").iterdir())
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="list of images in the source"):
        run(tmp_path / "other", unbroken)


def test_the_last_words_fit_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path / "in", {"cat/1.jpg": jpeg(1), "dog/1.jpg": jpeg(3)})
    arguments = ["shard", str(tmp_path / "in"), "--out", str(tmp_path / "my shards"), "--workers", "1"]
    for code, image, shown in ((0, jpeg(2), "1 shard made in"), (3, b"no image", "dataset.json names all of them")):
        write_files(tmp_path / "in", {"cat/2.jpg": image})
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out = capsys.readouterr().out
        assert (ended.value.code or 0) == code and shown in out
        assert f"\n  alexnet-fast train '{tmp_path}/my shards' --recipe demo --epochs 90\n" in out
        assert ("names all of them" in out) == (code == 3)
        shutil.rmtree(tmp_path / "my shards")
