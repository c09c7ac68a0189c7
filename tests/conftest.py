"""What several tests need: a data set small enough for two cores."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from alexnet_fast.tools.cores import THREADS, usable_cores
from alexnet_fast.tools.dataset import Dataset
from tests.forked import forked_instead_of_spawned

ROOT = Path(__file__).resolve().parent.parent

# pytest-xdist's workers share the cores, before torch reads the variable: more threads than cores wait by spinning.
if (num_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // num_workers)))


# Whoever starts the tests in the background (`nohup make test &`) has these ignored, and every process inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A command's --threads, which holds for its whole process, is forgotten after the test."""
    before = os.environ.get(THREADS)
    yield
    if before is None:
        os.environ.pop(THREADS, None)
    else:
        os.environ[THREADS] = before


@pytest.fixture(scope="session", autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no process that it starts, runs with the settings that this user keeps for the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # But the compiled loops are no setting: each state of the sources is compiled once.
        patch.setenv("NUMBA_CACHE_DIR", os.environ.get("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba")))
        yield


@pytest.fixture(scope="session", autouse=True)
def forked(empty_cache: None) -> Iterator[None]:
    """Processes that a test starts by multiprocessing are forked with all imports; a command's are spawned."""
    with forked_instead_of_spawned():
        yield


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn images: 10 classes, 60 training images less one that is broken, 30 for validation."""
    from alexnet_fast.demo.data import DemoData, draw_dataset
    from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
    from alexnet_fast.tools.sharding.process_pool import local_pool
    from alexnet_fast.tools.sharding.shard import shard
    from alexnet_fast.tools.sources.find import find_source
    from alexnet_fast.tools.storage.output import open_output

    folder = tmp_path_factory.mktemp("tiny")
    draw_dataset(folder / "images", DemoData(num_train=6, num_val=3))
    source = find_source(str(folder / "images"), None, val_fraction=None, seed=0, exclude=None, cache=None)
    plan = Plan(source, ShardOptions(shard_size=25))
    output = open_output(str(folder / "shards"))
    shard(plan, output, partial(local_pool, 1), strict=False, watch=lambda progress: None)
    return folder / "shards"


@pytest.fixture(scope="session")
def tiny_dataset(tiny_shards: Path) -> Dataset:
    return Dataset.load(tiny_shards)


@pytest.fixture(scope="session")
def small_run(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small network on those."""
    from alexnet_fast.config.recipe import recipe
    from alexnet_fast.training.run import train

    run = tmp_path_factory.mktemp("runs") / "small"
    small = recipe("2013", width_divisor=16, batch_size=8, lr_base_batch_size=8, epochs=1, precision="fp32",
                   final_views=1)  # fmt: skip
    train(tiny_dataset, small, run, device="cpu", quiet=True)
    return run
