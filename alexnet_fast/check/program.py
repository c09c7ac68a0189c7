"""Checks that run on any machine: kernels, several processes, exact and resumable streams, resumable sharding."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch

from alexnet_fast.check.runner import Check, CheckFailedError, Place, SkippedError
from alexnet_fast.check.worlds import compare_worlds
from alexnet_fast.demo.data import DemoData, draw_dataset
from alexnet_fast.network import layers
from alexnet_fast.network.kernels import norms, plain
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output

TINY = DemoData(num_train=6, num_val=3)
SHARD_SIZE = 25
CPU = torch.device("cpu")


def tiny_shards(place: Place) -> Dataset:
    """A small data set, drawn and sharded once."""
    folder = place.folder / "shards"
    if not (folder / "dataset.json").exists():
        images = place.folder / "images"
        if not images.exists():
            draw_dataset(images, TINY)
        shard_tiny(images, folder)
    return Dataset.load(folder)


def shard_tiny(images: Path, folder: Path, watch: Callable[[object], None] = lambda progress: None) -> None:
    source = find_source(str(images), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(source, ShardOptions(shard_size=SHARD_SIZE))
    shard(plan, open_output(str(folder)), partial(local_pool, 1), strict=False, watch=watch)


def kernel_errors(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Kernel -> its largest error against float64, forward and back, relative to the largest number."""
    generator = torch.Generator().manual_seed(0)

    def maps(*shape: int) -> torch.Tensor:
        x = torch.randn(shape, generator=generator) * 50
        return x.to(device, dtype).contiguous(memory_format=torch.channels_last)

    def error(ours: Callable[[torch.Tensor], torch.Tensor], exact: Callable[[torch.Tensor], torch.Tensor]) -> float:
        x = maps(3, 96, 27, 27).requires_grad_()
        wide = x.detach().double().requires_grad_()
        y, expected = ours(x), exact(wide)
        g = torch.randn(y.shape, generator=generator).to(device)
        y.backward(g.to(y.dtype))  # type: ignore[no-untyped-call]
        expected.backward(g.to(y.dtype).double())  # type: ignore[no-untyped-call]
        assert x.grad is not None and wide.grad is not None
        pairs = ((y.detach(), expected.detach()), (x.grad, wide.grad))
        return max(float((one.double() - two).abs().max() / two.abs().max()) for one, two in pairs)

    bias = torch.randn(96, generator=generator).to(device, dtype)
    exact_bias = bias.double()
    return {
        "norm across maps": error(
            lambda x: norms.local_response_norm(x, 2, 1e-4, True), lambda x: plain_norm(x, 2, 1e-4)
        ),
        "norm across pixels": error(norms.spatial_norm, plain_spatial_norm),
        "pooling": error(
            lambda x: layers.pool((x, bias), 3, relu=True),
            lambda x: torch.relu(torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=True) + exact_bias[:, None, None]),
        ),
    }


def plain_norm(x: torch.Tensor, towers: int, alpha: float) -> torch.Tensor:
    """By torch's own, tower by tower."""
    parts = torch.relu(x).chunk(towers, dim=1)
    return torch.cat([torch.nn.functional.local_response_norm(part, 5, alpha, 0.75, 2.0) for part in parts], dim=1)


def plain_spatial_norm(x: torch.Tensor) -> torch.Tensor:
    squares = torch.nn.functional.avg_pool2d(x * x, 5, 1, 2, divisor_override=1)
    scale: torch.Tensor = plain.SPATIAL_K + plain.SPATIAL_ALPHA / 25 * squares
    return x / scale**0.75


def judge(errors: dict[str, float], limit: float) -> str:
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= limit:
        raise CheckFailedError(f"{worst} differs from float64 by {errors[worst]:.1e} of its largest number")
    return f"largest error {errors[worst]:.1e} ({worst})"


def check_cpu_kernels(place: Place) -> str:
    exact = judge(kernel_errors(CPU, torch.float32), 1e-5)
    half = judge(kernel_errors(CPU, torch.bfloat16), 2e-2)
    return f"against float64: float32 {exact}; bfloat16 {half}"


def check_gloo(place: Place) -> str:
    torch.set_num_threads(1)
    found = compare_worlds("cpu", 2)
    worst = max(found.values())
    if not worst < 1e-4:
        raise CheckFailedError(f"two processes differ from one: {found}")
    return f"two processes train as one: weights within {worst:.1e} (towers and replicas)"


def prints(batches: list[Batch]) -> list[tuple[float, tuple[int, ...]]]:
    return [(float(batch.images.double().sum()), tuple(batch.labels.tolist())) for batch in batches]


def check_loader(place: Place) -> str:
    """Every sample once, and the rest of an epoch as it would have been, whatever is decoded together."""
    dataset = tiny_shards(place)
    samples = dataset.split("train").samples

    def loader(**options: int) -> TrainingLoader:
        return TrainingLoader(dataset, batch_size=4, device=CPU, seed=0, options=LoaderOptions(**options))  # type: ignore[arg-type]

    with TrainingLoader(dataset, batch_size=1, device=CPU, seed=0) as single:
        labels = np.concatenate([batch.labels.numpy() for batch in single.epoch(0)])
    stored = np.concatenate([np.bincount(labels, minlength=len(dataset.classes))])
    if len(labels) != samples or not (stored > 0).all():
        raise CheckFailedError(f"an epoch gave {len(labels)} of {samples} samples")
    with loader() as whole:
        wanted = prints(list(whole.epoch(1)))
    for place_in_epoch in (1, 5):
        with loader(decode_batch=12) as began:
            stream = began.epoch(1)
            for _ in range(place_in_epoch):
                next(stream)
            state = json.loads(json.dumps(began.state_dict()))
        with loader(decode_batch=20) as resumed:
            resumed.load_state_dict(state)
            if prints(list(resumed.epoch(1))) != wanted[place_in_epoch:]:
                raise CheckFailedError(f"an epoch resumed after {place_in_epoch} batches went on with other images")
    return f"{samples} samples, each once; resumed epochs are equal to the last bit"


class _StopError(Exception):
    """Stands for whatever ends a process in the middle."""


def check_sharding(place: Place) -> str:
    """Sharding that is stopped in the middle and run again comes to the same bytes."""
    whole, folder = tiny_shards(place).folder, place.folder / "again"
    calls = count()

    def stop(progress: object) -> None:
        if next(calls) == 1:
            raise _StopError

    with contextlib.suppress(_StopError):
        shard_tiny(place.folder / "images", folder, watch=stop)
        raise CheckFailedError("a stopped run came to its end")
    if (folder / "dataset.json").exists():
        raise CheckFailedError("a stopped run looks as if it were complete")
    shard_tiny(place.folder / "images", folder)
    files = sorted(file.name for file in whole.iterdir() if file.suffix in (".tar", ".idx"))
    changed = [name for name in files if (folder / name).read_bytes() != (whole / name).read_bytes()]
    if changed:
        raise CheckFailedError(f"{changed[0]} came out with other bytes the second time")
    return f"stopped and resumed: {len(files)} files equal to the last byte"


def check_data(place: Place) -> str:
    if place.data is None:
        raise SkippedError("no DATA was given")
    dataset = Dataset.load(place.data)
    dataset.check_sizes()
    with TrainingLoader(dataset, batch_size=min(32, dataset.split("train").samples), device=CPU, seed=0) as loader:
        batch = next(loader.epoch(0))
    counts = ", ".join(f"{split.samples:,} in {name}" for name, split in dataset.splits.items())
    return f"{counts}; {len(dataset.classes):,} classes; first batch {tuple(batch.images.shape)}"


CHECKS = (
    Check(
        "CPU kernels", check_cpu_kernels, "report it with this table: results on this machine cannot be trusted", 120.0
    ),
    Check("sharding resumes", check_sharding, "look for another program that writes to the temporary folder", 120.0),
    Check(
        "loader is exact", check_loader, "report it with this table: streams on this machine cannot be trusted", 120.0
    ),
    Check("two processes", check_gloo, "several processes cannot be used here; a firewall may block 127.0.0.1", 180.0),
    Check("your data", check_data, "`alexnet-fast verify DATA` lists which files were altered", 180.0),
)
