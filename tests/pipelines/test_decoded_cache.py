"""How many decoded images are kept, what is said of it, and how long a loader keeps them; all without a GPU."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from alexnet_fast.pipelines import decoding, reader, settings
from alexnet_fast.pipelines import loader as loaders
from alexnet_fast.pipelines.dali import fn
from alexnet_fast.pipelines.decoded_cache import (
    GIB,
    MIB,
    CachePlan,
    CacheRequest,
    CacheSize,
    check_gpu_memory,
    loader_memory,
    parse_cache_size,
    plan_cache,
)
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.seeds import part_of_rank
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError

IMAGENET = 1_281_167
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(("text", "size"), [("auto", "auto"), ("40", 40.0), ("0.5", 0.5), ("1e-3", 1e-3)])
def test_sizes(text: str, size: CacheSize) -> None:
    assert parse_cache_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "many", "40GiB", "Auto"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=f"--cache-decoded {text}: give auto, or a number of GiB above 0"):
        parse_cache_size(text)


def test_on_a_cpu_there_is_a_clear_message(tiny_dataset: Dataset) -> None:
    check_gpu_memory("cuda")
    with pytest.raises(UsageError, match="on a CPU there is no GPU memory to keep decoded images in"):
        TrainingLoader(tiny_dataset, batch_size=4, device=torch.device("cpu"), seed=0, cache=CacheRequest("auto"))


def plan(asked: CacheSize, *, free: float, needed: float = 0, samples: int = IMAGENET, size: int = 256) -> CachePlan:
    """With GiB for bytes."""
    return plan_cache(asked, free=int(free * GIB), needed=int(needed * GIB), samples=samples, size=size)


def test_auto_leaves_a_tenth_and_what_training_needs() -> None:
    assert plan("auto", free=100, needed=10).mib == 80 * 1024
    assert plan("auto", free=100, needed=10).share == pytest.approx(80 * GIB / (IMAGENET * 3 * 256**2), rel=1e-5)


def test_no_more_is_kept_than_there_is() -> None:
    # 16 images of 256 pixels are 3 MiB.
    both: list[CacheSize] = ["auto", 50.0]
    for asked in both:
        assert plan(asked, free=100, samples=16) == CachePlan(3, 16, 3 * 256**2)
        assert plan(asked, free=100, samples=17).mib == 4
    assert plan("auto", free=100, samples=17).share == 1
    whole = plan("auto", free=300)
    assert whole.share == 1 and (whole.mib - 1) * MIB < IMAGENET * 3 * 256**2 <= whole.mib * MIB


def test_so_many_gib_as_were_asked_for() -> None:
    assert plan(40.0, free=100, needed=70).mib == 40 * 1024
    assert plan(1e-9, free=100).mib == 1  # DALI counts in MiB, and 0 would mean something else to it


def test_more_than_is_free_is_refused() -> None:
    words = r"--cache-decoded 101: the GPU has 100\.0 GiB free, .* need 10\.0 of them.*auto.* 80\.0 GiB"
    with pytest.raises(UsageError, match=words):
        plan(101.0, free=100, needed=10)


@pytest.mark.parametrize("needed", [95, 200])
def test_where_nothing_is_left_nothing_is_kept(needed: int) -> None:
    nothing = plan("auto", free=100, needed=needed)
    assert nothing.mib == 0 and nothing.share == 0
    assert nothing.describe().startswith("No decoded images are kept")


def test_the_line_shows_how_much_and_which_share() -> None:
    assert plan("auto", free=140, needed=6).describe() == (
        "120.0 GiB of decoded images are kept on this GPU: 51% of its 1,281,167 images, "
        "each decoded once in this session."
    )


def test_the_loaders_memory_by_hand() -> None:
    choices: dict[str, Any] = {"size": 256, "jpeg_bytes": 26_000, "pixel_bytes": 2, "num_threads": 8, "prefetch": 2}
    memory = loader_memory(**choices, decoded_at_once=1000, batch_size=1000)
    copy = 224 * 224 * 3 * 2
    one = 26_000 + 256 * 256 * 3 + copy
    threads = 9 * 16 * MIB  # the cache's keeper has one
    assert memory.per_image == 3 * one + 2 * copy
    assert memory.beside_kept(1000) == (3 * one + 2 * copy) * 1000 + threads
    # Small training batches are cut from large decoded ones: fewer images take no less.
    apart = loader_memory(**choices, decoded_at_once=1000, batch_size=100)
    assert apart.beside_kept(100) == memory.beside_kept(1000) and apart.per_image == 0
    engines = loader_memory(**choices, decoded_at_once=1000, batch_size=1000, hw_decoder_load=0.5)
    assert engines.per_image - memory.per_image == 256 * 256 * 3 / 2


# ---------------------------------------------------------------------- the loader


def test_closing_a_loader_gives_dalis_memory_back(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pools keep what they had: after a loader with a cache nothing would be left for torch."""
    freed: list[bool] = []
    monkeypatch.setattr(loaders, "free_gpu_memory", lambda: freed.append(True))
    loader = TrainingLoader(tiny_dataset, batch_size=8, device=torch.device("cpu"), seed=0)
    loader._device = CUDA  # of which closing asks nothing
    loader.pause()
    assert not freed
    loader.close()
    assert freed


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with 10 GiB free, of which only that is known."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(settings, "machine_key", lambda device: "a machine")
    monkeypatch.setattr(loaders, "as_device", torch.device)


def loader_on_gpu(dataset: Dataset, **choices: Any) -> TrainingLoader:
    defaults: dict[str, Any] = {
        "batch_size": 4,
        "options": LoaderOptions(2, 2),
        "dtype": torch.float16,
    }
    return TrainingLoader(dataset, device=CUDA, seed=0, mean="rgb", **(defaults | choices))


@pytest.mark.usefixtures("gpu")
def test_a_loader_plans_for_its_own_part(tiny_dataset: Dataset) -> None:
    for rank in range(2):
        loader = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto"), rank=rank, num_ranks=2)
        samples = len(part_of_rank(59, rank, 2))
        assert loader.cache is not None and loader.cache.samples == samples and loader.cache.share == 1
        assert loader.memory.kept == loader._decoding.cache_mib * MIB == -(-samples * 3 // 16) * MIB


@pytest.mark.usefixtures("gpu")
def test_auto_leaves_what_others_and_the_loader_itself_need(tiny_dataset: Dataset) -> None:
    loader = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto"), batch_size=8)
    itself = loader.memory.beside_kept(8)
    assert itself > 2 * 16 * MIB + 3 * 8 * (256**2 * 3 + 224**2 * 3 * 2)
    free = int(0.9 * 10 * GIB)
    little = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto", free - itself - 5 * MIB), batch_size=8)
    assert little.cache is not None and little.cache.mib in (4, 5)


@pytest.mark.usefixtures("gpu")
def test_without_the_option_nothing_is_kept(tiny_dataset: Dataset) -> None:
    loader = loader_on_gpu(tiny_dataset, num_ranks=2)
    assert loader.cache is None and loader.memory.kept == 0 and loader._decoding.cache_mib == 0
    assert loader.stream()["rank"] == "0 of 2"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kept", [True, False])
def test_kept_images_are_not_read_again(tiny_dataset: Dataset, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader skips what the decoder has kept, and only then: what nobody kept must be read."""
    loader = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto") if kept else None)
    asked: dict[str, dict[str, Any]] = {}

    def note(operator: str) -> Any:
        def call(*inputs: Any, **options: Any) -> Any:
            asked[operator] = options
            return "jpeg", "digits"

        return call

    monkeypatch.setattr(fn.readers, "webdataset", note("reader"))
    monkeypatch.setattr(fn.decoders, "image", note("decoder"))
    (segment,) = loader._epochs.segments(0)
    jpeg, _ = reader.read_samples(loader._reading(0, segment))
    decoding.decode(jpeg, loader._decoding)
    assert asked["reader"]["skip_cached_images"] is kept
    sizes = {name: asked["decoder"][name] for name in ("cache_size", "cache_type") if name in asked["decoder"]}
    assert sizes == ({"cache_size": loader._decoding.cache_mib, "cache_type": "threshold"} if kept else {})


def tars_of(loader: TrainingLoader, epoch: int) -> tuple[str, ...]:
    (segment,) = loader._epochs.segments(epoch)
    return loader._reading(epoch, segment).tars


@pytest.mark.usefixtures("gpu")
def test_ranks_agree_on_the_order_even_where_one_has_no_room(tiny_dataset: Dataset) -> None:
    full = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto", 100 * GIB), num_ranks=2)
    roomy = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto"), rank=1, num_ranks=2)
    assert full._decoding.cache_mib == 0 < roomy._decoding.cache_mib
    for epoch in range(4):
        assert tars_of(full, epoch) == tars_of(roomy, epoch)
    assert full.stream()["rank"] == "0 of 2, always the same samples"
    alone = loader_on_gpu(tiny_dataset, cache=CacheRequest("auto"))
    assert alone.stream()["rank"] == "0 of 1"
    assert tars_of(alone, 3) == tars_of(loader_on_gpu(tiny_dataset), 3)


class Keeper:
    """In the place of what needs a GPU."""

    alive: ClassVar[weakref.WeakSet[Keeper]] = weakref.WeakSet()
    made = 0

    def __init__(self, decoding: Any, execution: Any) -> None:
        Keeper.alive.add(self)
        Keeper.made += 1


def test_images_are_kept_from_epoch_to_epoch_until_the_end(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "CacheKeeper", Keeper)
    monkeypatch.setattr(Keeper, "made", 0)
    with TrainingLoader(
        tiny_dataset, batch_size=8, device=torch.device("cpu"), seed=0, options=LoaderOptions(1)
    ) as loader:
        loader._decoding = replace(loader._decoding, cache_mib=5)
        assert Keeper.made == 0
        for epoch in range(2):
            for _ in loader.epoch(epoch):
                pass
        next(loader.epoch(2))
        state = loader.state_dict()
        loader.pause()
        loader.load_state_dict(state)
        next(loader.epoch(2))
        assert Keeper.made == len(Keeper.alive) == 1
        loader.close()
        assert not Keeper.alive
        next(loader.epoch(3))
        assert (Keeper.made, len(Keeper.alive)) == (2, 1)
    assert not Keeper.alive


def test_a_loader_without_a_cache_makes_no_keeper(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "CacheKeeper", lambda *arguments: pytest.fail("a keeper was made"))
    with TrainingLoader(
        tiny_dataset, batch_size=8, device=torch.device("cpu"), seed=0, options=LoaderOptions(1)
    ) as loader:
        next(loader.epoch(0))
