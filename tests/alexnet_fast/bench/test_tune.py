"""The sweep over the loader's settings, and the limits that it names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast.bench import tune
from alexnet_fast.bench.measurement import Measurement
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.settings import LoaderSettings, remembered
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def rated(rate: Callable[[LoaderSettings], float]) -> tuple[tune.Attempt, list[list[LoaderSettings]]]:
    """An attempt whose rates are known, and the rounds that were asked for."""
    rounds: list[list[LoaderSettings]] = []

    def attempt(candidates: list[LoaderSettings]) -> list[Measurement]:
        rounds.append(candidates)
        return [Measurement(str(settings), rate(settings)) for settings in candidates]

    return attempt, rounds


def test_the_sweep_finds_the_best_without_trying_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "num_cores", lambda: 16)

    def rate(settings: LoaderSettings) -> float:
        distance = (settings.num_threads - 32) ** 2 + (settings.prefetch - 4) ** 2
        slower = 0 if settings.decode_on == "engines" else 1e3
        return 1e6 - distance - 1e3 * abs(settings.hw_decoder_load - 0.18) - slower + settings.decode_batch / 1e3

    attempt, rounds = rated(rate)
    best, tried, skipped = tune.sweep(attempt, CUDA, None, deadline=np.inf)
    assert best == LoaderSettings(32, 4, 0.185, "engines", 2048) and not skipped
    assert {0.0, 0.12, 0.25, 1.0} <= {settings.hw_decoder_load for settings in rounds[0]}
    assert len(tried) < 25
    for earlier, later in pairwise(rounds):
        assert max(earlier, key=rate) in later  # measured again beside its rivals


def test_the_sweep_keeps_to_the_threads_it_is_given_and_to_its_time() -> None:
    attempt, rounds = rated(lambda settings: settings.prefetch)
    best, tried, _ = tune.sweep(attempt, CPU, 5, deadline=np.inf)
    assert {settings.num_threads for settings in tried} == {5} and best.prefetch == 4
    attempt, rounds = rated(lambda settings: settings.num_threads)
    _, _, skipped = tune.sweep(attempt, CUDA, None, deadline=-np.inf)
    assert len(rounds) == 1
    assert skipped == ["threads", "images decoded together", "prefetch", "shares between those"]


def test_a_gpu_without_engines_is_not_asked_for_them() -> None:
    attempt, _ = rated(lambda settings: float(settings.decode_on == "cpu"))
    best, tried, _ = tune.sweep(attempt, CUDA, 8, engines=False, deadline=np.inf)
    assert {settings.decode_on for settings in tried} == {"cuda", "cpu"} and best.decode_on == "cpu"


@pytest.mark.parametrize(("wanted", "shards"), [(1, 1), (20, 1), (21, 2), (1000, 3)])
def test_a_few_shards_are_enough(tiny_dataset: Dataset, wanted: int, shards: int) -> None:
    some = tune.first_shards(tiny_dataset, wanted)
    assert len(some.tars("train")) == shards
    with TrainingLoader(some, batch_size=4, device=CPU, seed=0) as loader:
        assert sum(len(batch.labels) for batch in loader.epoch(0)) == loader.num_batches * 4


@pytest.mark.usefixtures("short")
def test_tuning_keeps_the_best_and_names_the_wall(tiny_dataset: Dataset) -> None:
    said: list[str] = []
    rows = tune.tune(tiny_dataset, device=CPU, batch_size=6, num_threads=2, say=said.append)
    settings = [row for row in rows if not row.name.startswith("limit: ")]
    limits = [row for row in rows if row.name.startswith("limit: ")]
    kept = remembered(CPU)
    assert kept is not None and kept.num_threads == 2
    assert f"2 threads, prefetch {kept.prefetch}" in said[0]
    assert len(settings) == 3 and len(limits) == 5
    assert said[-1].startswith("The bottleneck is ") and any(row.name[7:] in said[-1] for row in limits)
    with TrainingLoader(tiny_dataset, batch_size=6, device=CPU, seed=0) as loader:
        assert loader._execution.prefetch == kept.prefetch  # what was kept is what `train` runs with


def test_reading_is_counted_in_bytes(tiny_dataset: Dataset) -> None:
    for cold in (True, False):
        row = tune.read_limit("disk", tiny_dataset.tars("train"), 20_000.0, cold=cold)
        assert row.rate > 0 and row.rate * 20_000 == pytest.approx(1e9 * float(row.details["GB/s"]))


@pytest.mark.parametrize(("fits", "nearest"), [(True, "limit: CPU, decoding"), (False, tune.DISK)])
def test_the_wall_is_the_lowest_limit_that_holds(fits: bool, nearest: str) -> None:
    limits = [
        Measurement(tune.DISK, 500.0),
        Measurement("limit: decoding, engines alone", 100.0),
        Measurement("limit: CPU, decoding", 1000.0),
        Measurement("limit: CPU, reading samples", 9000.0),
    ]
    sentence = tune.bottleneck(450.0, limits, fits_memory=fits)
    assert nearest.removeprefix("limit: ") in sentence.partition(":")[0]
    assert ("45%" in sentence) == fits and ("90%" in sentence) != fits
    assert ("first pass" in sentence) == fits


def test_settings_that_cannot_be_kept_are_reported_before_the_sweep(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "check_quiet", lambda: None)
    monkeypatch.setattr(tune, "sweep", lambda *_, **__: pytest.fail("the sweep was begun"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        tune.tune(tiny_dataset, device=CPU, batch_size=4, num_threads=1, say=print)
