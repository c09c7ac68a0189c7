"""A data set of ImageNet-22k's size, made up: 14.2 M images of 21,841 classes; seconds and peak memory of each part.

    python -m alexnet_fast.bench.scale SHARDS --json benchmarks/scale-cpu.json [--images 14200000]

SHARDS is any small shards folder.  Its training images, repeated, fill one shard of 1,000; all other shards are hard
links of it, so that manifest, indexes, loader and state are as long as those of the real set, and the disk holds one
shard.  The plan is of a source with as many images, named as ImageNet's, that are nowhere.  Each part runs in a process
of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from alexnet_fast.tools.dataset import MANIFEST, Dataset, manifest_checksum
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sources.table import ClassName, Source, TableBuilder
from alexnet_fast.tools.storage.output import open_output

SHARD = 1_000
CLASSES = 21_841
PARTS = ("plan", "manifest", "info", "loader", "resume", "evaluation")
STATE = "state.json"
"""In the made-up folder: where the part `loader` stopped, which the part `resume` takes up."""


def repeat(source: Path, tar: Path) -> None:
    """A shard of `SHARD` samples, and its index for DALI."""
    with tarfile.open(source) as old:
        members = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
    samples = [members[index : index + 2] for index in range(0, len(members), 2)]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as new:
        for number in range(SHARD):
            for name, content in samples[number % len(samples)]:
                info = tarfile.TarInfo(f"{number:06d}{Path(name).suffix}")
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    lines = [f"v1.2 {SHARD}"]
    with tarfile.open(tar) as new:
        found = list(new)
    for one, two in zip(found[::2], found[1::2], strict=True):
        parts = [(member.name.partition(".")[2], member) for member in (one, two)]
        lines.append(" ".join(f"{kind} {member.offset_data} {member.size} {member.name}" for kind, member in parts))
    tar.with_suffix(".idx").write_text("\n".join(lines) + "\n")


def make(small: Path, folder: Path, num_images: int) -> None:
    """The shards folder."""
    manifest = json.loads((small / MANIFEST).read_text())
    for file in small.iterdir():
        if file.suffix in (".npy", ".tsv") or file.name == "_info.json":
            shutil.copy2(file, folder)
    first = folder / "train-000000.tar"
    repeat(small / manifest["splits"]["train"]["shards"][0]["name"], first)
    template = manifest["splits"]["train"]["shards"][0] | {"samples": SHARD, "bytes": first.stat().st_size}
    template["index_sha256"] = hashlib.sha256(first.with_suffix(".idx").read_bytes()).hexdigest()
    shards = [template | {"name": f"train-{number:06d}.tar"} for number in range(-(-num_images // SHARD))]
    for shard in shards[1:]:
        for suffix in (".tar", ".idx"):
            os.link(first.with_suffix(suffix), (folder / shard["name"]).with_suffix(suffix))
    total = SHARD * len(shards)
    manifest["splits"] = {"train": {"samples": total, "found": total, "shards": shards}}
    manifest["classes"] = [[f"n{number:08d}", f"thing {number}"] for number in range(CLASSES)]
    manifest["accounting"] = {"found": total, "written": total, "skipped": 0}
    manifest |= {"repaired": {}, "skipped": {}}
    manifest["checksum"] = manifest_checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def anonymous_mb() -> int:
    """This process's memory without the pages of mapped tars, which the system takes back when it needs them."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) // 1024


def measure_plan(num_images: int) -> dict[str, object]:
    """List as many images, which are nowhere, and plan their shards."""
    builder = TableBuilder("/nowhere")
    began = time.monotonic()
    for number in range(num_images):
        label = number % CLASSES
        builder.add(0, label, b"train/n%08d/n%08d_%d.JPEG" % (label, label, number // CLASSES), 110_000)
    table = builder.finish()
    listed = time.monotonic()
    classes = tuple(ClassName(f"n{number:08d}", f"thing {number}") for number in range(CLASSES))
    plan = Plan(Source("folders", "made up", classes, ("train",), table), ShardOptions(shard_size=SHARD))
    assert plan.identity["images"] == num_images
    first = plan.task(plan.shards[0], open_output("/nowhere"), strict=False)
    seconds = {"list_seconds": round(listed - began, 2), "plan_seconds": round(time.monotonic() - listed, 2)}
    return {"shards": len(plan.shards), "images_of_a_task": len(first.images), **seconds}


def measure(part: str, folder: Path, num_images: int) -> dict[str, object]:
    """In this process."""
    if part in ("loader", "resume", "evaluation"):  # what shards and describes runs without torch and DALI
        from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader

    details: dict[str, object] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    if part == "plan":
        details |= measure_plan(num_images)
    elif part == "manifest":
        details["samples"] = Dataset.load(folder).split("train").samples
    elif part == "info":
        details["lines"] = len(describe(Dataset.load(folder)).splitlines())
    elif part == "evaluation":
        batches = iter(EvaluationLoader(Dataset.load(folder), split="train", batch_size=128, device="cpu"))
        next(batches)
        details["anonymous_mb"] = anonymous_mb()
    else:
        made = TrainingLoader(Dataset.load(folder), batch_size=128, device="cpu", seed=0)
        details["constructor_seconds"] = round(time.monotonic() - began, 2)
        if part == "resume":
            made.load_state_dict(json.loads((folder / STATE).read_text()))
        next(made.epoch(0))
        if part == "loader":
            details["state_bytes"] = (folder / STATE).write_text(json.dumps(made.state_dict()))
        details["segments"] = len(made._epochs.segments(0))
        details["anonymous_mb"] = anonymous_mb()
        made.close()
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 2), "peak_mb": peak // 1024, "imports_mb": before // 1024, **details}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--images", type=int, default=14_200_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(measure(asked.part, asked.shards, asked.images)))
        return
    results: dict[str, object] = {"classes": CLASSES}
    for images in (asked.images // 10, asked.images):  # to see what grows faster than the data
        with tempfile.TemporaryDirectory(prefix="alexnet-fast-scale-") as name:
            make(asked.shards, Path(name), images)
            parts = {}
            for part in PARTS:
                command = [
                    sys.executable, "-m", "alexnet_fast.bench.scale", name, "--part", part, "--images", str(images)
                ]  # fmt: skip
                parts[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                print(f"{images:>10,} images, {part:8} {parts[part]}", flush=True)
            results[f"{images:,} images"] = parts
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
