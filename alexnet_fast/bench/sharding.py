"""Speed and memory of sharding, compared with a bare loop and with other tools.

    python -m alexnet_fast.bench.sharding IMAGES [--json FILE] [--quick] [--img2dataset COMMAND] [--ffcv-python PYTHON]

--quick: the worker beside the bare loop, and the image sizes, only.  IMAGES holds class folders of whole images, as
`alexnet-fast shard` reads them: the other tools skip no damaged ones.  Every candidate makes the same number of images,
in turns, three rounds; the file cache is warm.  Candidates of one core are bound to one.  img2dataset and FFCV need
other versions of common libraries, so they are called in environments of their own.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_fast.bench.measurement import Measurement, table
from alexnet_fast.bench.sharding_parent import parent_memory
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.freed_memory import keep_freed_blocks
from alexnet_fast.tools.sharding.acceleration import FEWEST_IMAGES, use_loops_for
from alexnet_fast.tools.sharding.image import encode
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.resize import average_area
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sharding.statistics import PixelSums
from alexnet_fast.tools.sharding.worker import make_shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.sources.table import read_bytes
from alexnet_fast.tools.storage.output import LocalOutput

ROUNDS = 3
QUALITY = 95
IMAGENET = 1_281_167 + 50_000
"""Images of ILSVRC-2012's train and val."""

Candidate = Callable[[Path], float]
"""Makes the images into an empty folder; returns the seconds that took."""


class Seconds(float):
    """By the clock."""

    processor: float
    """Of this process's processor time, which other programs on the machine change less."""


def timed(work: Callable[[], object]) -> Seconds:
    processor, begun = time.process_time(), time.perf_counter()
    work()
    seconds = Seconds(time.perf_counter() - begun)
    seconds.processor = time.process_time() - processor
    return seconds


def in_one_core(work: Callable[[Plan, Path], Seconds], plan: Plan, folder: Path) -> Seconds:
    """Seconds of the work in a new process that may use one core only."""
    with multiprocessing.get_context("spawn").Pool(
        1, os.sched_setaffinity, (0, {min(os.sched_getaffinity(0))})
    ) as pool:
        return pool.apply(work, (plan, folder))


def bare_loop(plan: Plan, folder: Path, resampling: Image.Resampling) -> Seconds:
    """Pillow alone: read, decode, center square to 256, encode, thrown away."""
    locations = [plan.image(number).location for number in range(len(plan.source.table))]

    return timed(lambda: [pillow(read_bytes(location), resampling) for location in locations])


def pillow(content: bytes, resampling: Image.Resampling) -> bytes:
    """A straightforward implementation."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    stream = io.BytesIO()
    image.resize((256, 256), resampling, box=(left, top, left + side, top + side)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def worker(plan: Plan, folder: Path) -> Seconds:
    """What a worker process does: read, encode, statistics, tar, index, hash, written to the disk."""
    output = LocalOutput(folder)
    output.prepare()
    keep_freed_blocks()  # as its process does when it begins
    load_loops()
    tasks = [plan.task(planned, output, False) for planned in plan.shards]
    return timed(lambda: [make_shard(task) for task in tasks])


def load_loops() -> None:
    """Begin as a worker does that makes ImageNet's shards, however few images are measured."""
    use_loops_for(FEWEST_IMAGES)
    PixelSums(256).add(average_area(lambda first, last: np.zeros((last - first, 300, 3), np.uint8), 0, 300, 256))


def webdataset_loop(plan: Plan, folder: Path) -> Seconds:
    """webdataset's ShardWriter in a plain loop, with Pillow's BILINEAR."""
    import webdataset

    def work() -> None:
        with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=1000, verbose=0) as sink:
            for number in range(len(plan.source.table)):
                image = plan.image(number)
                jpeg = pillow(read_bytes(image.location), Image.Resampling.BILINEAR)
                sink.write({"__key__": image.stem, "jpg": jpeg, "cls": str(image.label)})

    return timed(work)


# ---------------------------------------------------------------- the program


def whole_run(source: Path, workers: int, folder: Path) -> float:
    """`alexnet-fast shard` from listing to dataset.json, processes' start included."""

    def work() -> None:
        plan = Plan(find_source(str(source), None, val_fraction=None, seed=0, exclude=None, cache=None), ShardOptions())
        shard(plan, LocalOutput(folder), partial(local_pool, workers), strict=False, watch=lambda progress: None)

    return timed(work)


# ------------------------------------------------------------------- image sizes

SIZES = {"500 px": (500, 375, 96), "2 Mpx": (1632, 1224, 24), "12 Mpx": (4000, 3000, 4)}
"""Name -> width, height and number of images."""


def image_sizes(images: Path, folder: Path) -> list[dict[str, Any]]:
    """For JPEG and PNG of every size: worker with either filter beside the bare loop, resizing alone, and memory."""
    photos = [Image.open(file).convert("RGB") for file in sorted(images.rglob("*.*"))[:8]]
    rows = []
    for name, (width, height, count) in SIZES.items():
        for form in ("JPEG", "PNG"):
            source = folder / f"{name} {form}".replace(" ", "-")
            for number in range(count):
                file = source / str(number % 2) / f"{number}.{form.lower()}"
                file.parent.mkdir(parents=True, exist_ok=True)
                photo = photos[number % len(photos)].resize((width, height), Image.Resampling.BICUBIC)
                photo.save(file, form, quality=90, compress_level=1)
            rows.append({"images": f"{name} {form}", **one_size(source, count, folder)})
    return rows


def one_size(source: Path, count: int, folder: Path) -> dict[str, float]:
    found = find_source(str(source), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plans = {name: Plan(found, ShardOptions(ImageOptions(filter=name))) for name in ("area", "bilinear")}
    candidates: dict[str, Callable[[Path], Seconds]] = {
        "bare loop": partial(in_one_core, partial(bare_loop, resampling=Image.Resampling.BILINEAR), plans["area"]),
        "worker": partial(in_one_core, worker, plans["area"]),
        "worker, bilinear": partial(in_one_core, worker, plans["bilinear"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, candidate in candidates.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                seconds[name].append(candidate(Path(out)).processor)
    rates = {f"{name}, img/s of processor time": count / statistics.median(times) for name, times in seconds.items()}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return rates | pool.apply(resizing, (next(source.rglob("*.*")).read_bytes(),))


def resizing(content: bytes) -> dict[str, float]:
    """Milliseconds of the resize alone, by filter, and what making the image takes beside its decoded pixels."""
    keep_freed_blocks()
    load_loops()
    before = memory_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    encode(content, "a", ImageOptions())
    peak = memory_kb("VmHWM") - before
    image = Image.open(io.BytesIO(content)).convert("RGB")
    side, pixels = min(image.size), np.asarray(image)
    box = ((image.width - side) // 2, (image.height - side) // 2)

    def rows(first: int, last: int) -> npt.NDArray[np.uint8]:
        return pixels[box[1] + first : box[1] + last]

    region = (box[0], box[1], box[0] + side, box[1] + side)
    bilinear, area = Image.Resampling.BILINEAR, []
    theirs = []
    for _ in range(20):
        theirs.append(timed(lambda: image.resize((256, 256), bilinear, box=region)))
        area.append(
            timed(lambda: average_area(lambda first, last: pixels[box[1] + first : box[1] + last], box[0], side, 256))
        )
    return {
        "bilinear, ms": 1e3 * min(theirs),
        "area, ms": 1e3 * min(area),
        "area / bilinear": min(area) / min(theirs),
        "decoded MB": pixels.nbytes / 1e6,
        "peak MB": peak / 1e3,
    }


def memory_kb(key: str) -> int:
    """Of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


# ----------------------------------------------------------------- other people


def img2dataset(command: str, source: Path, processes: int, folder: Path) -> float:
    """img2dataset on file:// addresses, with the same crop, size and quality."""
    addresses = folder / "addresses.txt"
    addresses.write_text("".join(f"file://{file}\n" for file in sorted(source.rglob("*.*"))))
    arguments = [
        command, "--url_list", addresses, "--output_folder", folder / "out", "--output_format", "webdataset",
        "--processes_count", processes, "--thread_count", 2 * processes, "--image_size", 256,
        "--resize_mode", "center_crop", "--encode_quality", QUALITY, "--number_sample_per_shard", 1000,
        "--enable_wandb", False, "--compute_hash", None,
    ]  # fmt: skip
    seconds = timed(lambda: subprocess.run([str(word) for word in arguments], check=True, capture_output=True))
    written = [json.loads(file.read_bytes()) for file in (folder / "out").glob("*_stats.json")]
    made = sum(shard["successes"] for shard in written)
    assert made == sum(shard["count"] for shard in written) > 0, "img2dataset could not use all of the images"
    return seconds


FFCV_WRITER = """
import sys, time
from pathlib import Path
from PIL import Image
from ffcv.writer import DatasetWriter
from ffcv.fields import RGBImageField, IntField
class Images:
    files = sorted(Path(sys.argv[1]).rglob("*.*"))
    def __len__(self): return len(self.files)
    def __getitem__(self, number): return Image.open(self.files[number]).convert("RGB"), 0
fields = {"image": RGBImageField(write_mode="jpg", max_resolution=256, jpeg_quality=95), "label": IntField()}
begun = time.perf_counter()
DatasetWriter(sys.argv[2] + "/out.beton", fields, num_workers=int(sys.argv[3])).from_indexed_dataset(Images())
print(time.perf_counter() - begun)
"""


def ffcv(python: str, source: Path, processes: int, folder: Path) -> float:
    """FFCV's writer in its JPEG mode; its images' longer side is 256, so they are smaller than ours."""
    arguments = [python, "-c", FFCV_WRITER, str(source), str(folder), str(processes)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return float(printed.splitlines()[-1])


# ------------------------------------------------------------------------ main


def measure(name: str, count: int, seconds: list[float], details: dict[str, Any]) -> Measurement:
    rates = [count / each for each in seconds]
    median = statistics.median(rates)
    return Measurement(name, median, (max(rates) - min(rates)) / 2 / median, details)


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None)
@click.option("--quick", is_flag=True, help="Worker, bare loop and image sizes only.")
@click.option("--img2dataset", "img2dataset_command", default=None, help="Its command.")
@click.option("--ffcv-python", default=None, help="A Python that has FFCV.")
def main(
    images: Path, json_file: Path | None, quick: bool, img2dataset_command: str | None, ffcv_python: str | None
) -> None:
    """Measure sharding on IMAGES."""
    images = images.resolve()
    plan = Plan(find_source(str(images), None, val_fraction=None, seed=0, exclude=None, cache=None), ShardOptions())
    assert plan.options.image_options == ImageOptions(quality=QUALITY)
    count = len(plan.source.table)
    bilinear = partial(bare_loop, resampling=Image.Resampling.BILINEAR)
    box = partial(bare_loop, resampling=Image.Resampling.BOX)
    one, two = {"cores": 1}, {"cores": 2}
    candidates: list[tuple[str, dict[str, Any], Candidate]] = [
        ("bare loop: Pillow decode, BILINEAR, encode", one, partial(in_one_core, bilinear, plan)),
        ("our worker", one, partial(in_one_core, worker, plan)),
    ]
    others: list[tuple[str, dict[str, Any], Candidate]] = [
        ("bare loop with BOX", one, partial(in_one_core, box, plan)),
        ("webdataset.ShardWriter in a loop, BILINEAR", one, partial(in_one_core, webdataset_loop, plan)),
        ("alexnet-fast shard --workers 1", {}, partial(whole_run, images, 1)),
        ("alexnet-fast shard --workers 2", two, partial(whole_run, images, 2)),
    ]
    candidates += [] if quick else others
    if img2dataset_command:
        candidates.append(("img2dataset, 2 processes", two, partial(img2dataset, img2dataset_command, images, 2)))
    if ffcv_python:
        candidates.append(("FFCV's writer, JPEG, 2 processes", two, partial(ffcv, ffcv_python, images, 2)))
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in candidates}
    for _ in range(ROUNDS):
        for name, _, candidate in candidates:
            with tempfile.TemporaryDirectory() as folder:
                seconds[name].append(candidate(Path(folder)))
    rows = [measure(name, count, seconds[name], details) for name, details, _ in candidates]
    rates = {row.name: row.rate for row in rows}
    click.echo(table(rows))
    bare, ours = (seconds[name] for name, _, _ in candidates[:2])
    ratio = statistics.median(bare) / statistics.median(ours)
    by_processor = processor_seconds(bare) / processor_seconds(ours)
    click.echo(f"worker / bare loop: {ratio:.3f} by the clock, {by_processor:.3f} by processor time")
    content = {
        "command": " ".join(["python", *sys.argv]), "machine": describe_machine(), "images": count,
        "rows": [asdict(row) for row in rows], "worker / bare loop": ratio,
        "worker / bare loop, processor time": by_processor,
        "processor ms an image": {"bare loop": 1e3 * processor_seconds(bare) / count,
                                  "worker": 1e3 * processor_seconds(ours) / count},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        content["sizes"] = sizes = image_sizes(images, Path(folder))
    for size in sizes:
        click.echo(
            "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in size.items())
        )
    if not quick:
        content |= whole_runs(rates)
    if json_file:
        json_file.write_text(json.dumps(content, indent=2, default=str) + "\n")


def processor_seconds(rounds: Sequence[float]) -> float:
    return statistics.median(each.processor for each in rounds if isinstance(each, Seconds))


def whole_runs(rates: dict[str, float]) -> dict[str, Any]:
    """What the whole program takes: processes' scaling, ImageNet's time, the parent's memory."""
    both = rates["alexnet-fast shard --workers 2"] / rates["alexnet-fast shard --workers 1"]
    click.echo(f"two workers / one: {both:.2f}")
    per_core = rates["alexnet-fast shard --workers 2"] / 2
    hours = {cores: IMAGENET / (per_core * cores) / 3600 for cores in (2, 16, 64)}
    click.echo("ImageNet-2012, were its images like these and every core as fast: " + ", ".join(
        f"{60 * value:.0f} minutes on {cores} cores" for cores, value in hours.items()))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        megabytes, took = pool.apply(parent_memory, (Path(folder),))
    click.echo(f"the parent with 1,281,167 images: {megabytes:.0f} MB at most, {took:.0f} s in all")
    return {"two workers / one": both, "ImageNet hours": hours, "parent MB with 1,281,167 images": megabytes}


if __name__ == "__main__":
    main()
