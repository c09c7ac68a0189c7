"""Streams of images: exact, reproducible, resumable; and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from alexnet_fast.pipelines.augmentation import Augmentation
from alexnet_fast.pipelines.draws import DrawStream
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.normalization import NormalizationOnCpu
from alexnet_fast.pipelines.pipeline_run import PipelineRun
from alexnet_fast.pipelines.seeds import part_of_rank
from alexnet_fast.pipelines.settings import LoaderOptions, LoaderSettings
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sharding.process_pool import local_pool
from alexnet_fast.tools.sharding.shard import shard
from alexnet_fast.tools.sources.find import find_source
from alexnet_fast.tools.storage.output import open_output

CPU = torch.device("cpu")


def loader_of(dataset: Dataset, **choices: Any) -> TrainingLoader:
    defaults: dict[str, Any] = {"batch_size": 4, "device": CPU, "seed": 0, "options": LoaderOptions(1)}
    return TrainingLoader(dataset, **(defaults | choices))


def prints(loader: TrainingLoader, epoch: int = 0) -> list[tuple[float, tuple[int, ...]]]:
    """One epoch's batches in short: sum of pixels and labels."""
    return [(float(batch.images.double().sum()), tuple(batch.labels.tolist())) for batch in loader.epoch(epoch)]


def contents(dataset: Dataset, ranks: int, epoch: int, batch_size: int) -> list[tuple[float, ...]]:
    """A short print of every sample that an epoch gave over all ranks, independent of crop, mirror and color."""
    found = []
    for rank in range(ranks):
        with loader_of(
            dataset,
            batch_size=batch_size,
            rank=rank,
            num_ranks=ranks,
            mean="rgb",
            augmentation=Augmentation(pca_jitter=0),
        ) as loader:
            for batch in loader.epoch(epoch):
                # The middle that every crop has; its sums over each color do not know mirrors.
                middle = batch.images[:, :, 96:128, :].double()
                found += [(*(label,), *row) for label, row in zip(
                    batch.labels.tolist(), middle.mean((2, 3)).tolist(), strict=True
                )]  # fmt: skip
    return found


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 8), (2, 5), (3, 4), (4, 7)])
def test_training_drops_only_the_remainder(tiny_dataset: Dataset, ranks: int, batch_size: int) -> None:
    counts = []
    for rank in range(ranks):
        with loader_of(tiny_dataset, batch_size=batch_size, rank=rank, num_ranks=ranks) as loader:
            assert loader.num_batches == 59 // (batch_size * ranks)
            counts.append(sum(len(batch.labels) for batch in loader.epoch(0)))
    assert counts == [59 // (batch_size * ranks) * batch_size] * ranks


def stems_seen(
    dataset: Dataset, rank: int, ranks: int, batch_size: int, epoch: int, same_samples: bool = False
) -> list[str]:
    """Where each sample of a rank's epoch came from, by running the loader's own graph with its sources."""
    with loader_of(dataset, batch_size=batch_size, rank=rank, num_ranks=ranks) as loader:
        loader._epochs = replace(loader._epochs, same_samples=same_samples)  # as where decoded images are kept
        (segment,) = loader._epochs.segments(epoch)
        reading, normalization = loader._reading(epoch, segment), loader.normalization(epoch, pca_jitter=True)
        run = PipelineRun(
            lambda: normalization.graph(reading, with_draws=True),
            loader._execution,
            loader.num_batches,
        )
        seen = []
        for _ in range(loader.num_batches):
            sources = run.next()[-2]
            seen += [bytes(np.array(sources.at(place))).decode() for place in range(batch_size)]
    return seen


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_an_epoch_has_every_sample_at_most_once(tiny_dataset: Dataset, ranks: int) -> None:
    for epoch in (0, 1):
        seen = [stem for rank in range(ranks) for stem in stems_seen(tiny_dataset, rank, ranks, 3, epoch)]
        assert len(seen) == len(set(seen)) == 59 // (3 * ranks) * 3 * ranks


@pytest.fixture(scope="module")
def many_shards(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same images in nine tars, so that some lie wholly in one rank's part and some do not."""
    source = find_source(str(tiny_shards.parent / "images"), None, val_fraction=None, seed=0, exclude=None, cache=None)
    folder = tmp_path_factory.mktemp("many") / "shards"
    plan = Plan(source, ShardOptions(shard_size=7))
    shard(plan, open_output(str(folder)), partial(local_pool, 1), strict=False, watch=lambda progress: None)
    return Dataset.load(folder)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_that_keep_images_meet_the_same_in_every_epoch(many_shards: Dataset, ranks: int) -> None:
    met: list[set[str]] = []
    for rank in range(ranks):
        epochs = [stems_seen(many_shards, rank, ranks, 3, epoch, same_samples=True) for epoch in range(4)]
        for seen in epochs:
            assert len(seen) == len(set(seen)) == 59 // (3 * ranks) * 3
        assert len({tuple(seen) for seen in epochs}) == 4
        met.append({stem for seen in epochs for stem in seen})
        assert len(met[-1]) <= len(part_of_rank(59, rank, ranks))
    assert sum(map(len, met)) == len(set.union(*met))
    others = {stem for epoch in range(4) for stem in stems_seen(many_shards, 0, ranks, 3, epoch)}
    assert len(others) > len(part_of_rank(59, 0, ranks))  # the full shuffle hands them round


def test_the_same_seed_gives_the_same_batches(tiny_dataset: Dataset) -> None:
    with (
        loader_of(tiny_dataset) as first,
        loader_of(tiny_dataset, options=LoaderOptions(2, 4)) as second,
    ):
        epoch0, epoch1 = prints(first, 0), prints(first, 1)
        assert prints(second, 1) == epoch1  # an epoch needs only its number
        assert prints(second, 0) == epoch0
    assert epoch0 != epoch1
    with loader_of(tiny_dataset, seed=1) as other:
        assert prints(other, 0) not in (epoch0, epoch1)


def test_ranks_share_no_draws() -> None:
    drawn = [DrawStream(seed=0, epoch=0, rank=rank, size=256).at(0, 500).g[:, 0] for rank in range(3)]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(drawn[one], drawn[two])[0, 1]) < 0.2


RESUME = """
import json, sys, torch
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.tools.dataset import Dataset
dataset, out = Dataset.load(sys.argv[1]), []
for state in json.load(sys.stdin):
    with TrainingLoader(dataset, batch_size=4, device=torch.device("cpu"), seed=0) as loader:
        loader.load_state_dict(state)
        epochs = [batch for epoch in (3, 4) for batch in loader.epoch(epoch)]
        out.append([(float(batch.images.double().sum()), batch.labels.tolist()) for batch in epochs])
print(json.dumps(out))
"""


def test_another_process_continues_with_the_next_batch(tiny_dataset: Dataset) -> None:
    """After the first batch of an epoch, from its middle, and after its last but one."""
    places, states = (1, 6, 13), []
    with loader_of(tiny_dataset) as loader:
        wanted = prints(loader, 3) + prints(loader, 4)
    for batches in places:
        with loader_of(tiny_dataset) as loader:
            stream = loader.epoch(3)
            for _ in range(batches):
                next(stream)
            states.append(loader.state_dict())
    command = [sys.executable, "-c", RESUME, str(tiny_dataset.folder)]
    finished = subprocess.run(command, input=json.dumps(states), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    for batches, resumed in zip(places, json.loads(finished.stdout), strict=True):
        assert [(total, tuple(labels)) for total, labels in resumed] == wanted[batches:], batches


@pytest.mark.parametrize("pca_jitter", [True, False])
def test_an_epoch_can_continue_with_the_other_jitter(tiny_dataset: Dataset, pca_jitter: bool) -> None:
    with loader_of(tiny_dataset) as loader:
        wanted = [batch.images.clone() for batch in loader.epoch(3, pca_jitter=pca_jitter)]
        stream = loader.epoch(3, pca_jitter=not pca_jitter)
        for _ in range(5):
            next(stream)
        state = loader.state_dict()
    with loader_of(tiny_dataset) as other:
        other.load_state_dict(state)
        resumed = [batch.images.clone() for batch in other.epoch(3, pca_jitter=pca_jitter)]
    assert len(resumed) == len(wanted) - 5
    for one, another in zip(resumed, wanted[5:], strict=True):
        assert torch.equal(one, another)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), UserError("a label that is none")])
def test_a_batch_that_could_not_be_made_was_not_given(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    with loader_of(tiny_dataset) as loader:
        wanted = prints(loader, 3)
        stream = loader.epoch(3)
        for _ in range(5):
            next(stream)
        with monkeypatch.context() as patch, pytest.raises(type(stop)):
            patch.setattr(NormalizationOnCpu, "normalize", Mock(side_effect=stop))
            next(stream)
        state = loader.state_dict()
    with loader_of(tiny_dataset) as other:
        other.load_state_dict(state)
        assert prints(other, 3) == wanted[5:]
        assert prints(other, 3) == wanted


def test_an_epoch_ends_where_another_begins(tiny_dataset: Dataset) -> None:
    with loader_of(tiny_dataset) as loader:
        begun, not_begun = loader.epoch(0), loader.epoch(1)
        with pytest.raises(RuntimeError, match="another one was begun"):
            next(begun)
        next(not_begun)
        loader.close()
        with pytest.raises(RuntimeError, match="the loader was closed"):
            next(not_begun)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"batch_size": 60}, "59 samples, less than one batch of 60. Use a batch of at most 59"),
        ({"batch_size": 30, "num_ranks": 2}, "30 on each of 2 ranks"),
        ({"batch_size": 1, "num_ranks": 60}, "59 samples for 60 ranks"),
        ({"batch_size": 0}, "batch size 0"),
        ({"options": LoaderOptions(num_threads=0)}, "0 loader threads"),
        ({"options": LoaderOptions(num_threads=10**6)}, "1000000 loader threads: give 1 to 4,096"),
        ({"options": LoaderOptions(prefetch=0)}, "prefetch of 0 batches: give 1"),
        ({"options": LoaderOptions(prefetch=-1)}, "prefetch of -1 batches"),
        ({"options": LoaderOptions(hw_decoder_load=1.5)}, "hw_decoder_load 1.5.*give 0 to 1"),
        ({"options": LoaderOptions(hw_decoder_load=float("nan"))}, "hw_decoder_load nan"),
        ({"shuffle_buffer": 0}, "shuffle buffer of 0 samples: give 1"),
        ({"rank": 2, "num_ranks": 2}, "ranks count from 0 to 1"),
        ({"split": "test"}, "no test split. Choose train or val"),
    ],
)
def test_what_cannot_be_read_so(tiny_dataset: Dataset, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        loader_of(tiny_dataset, **choices)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"pca_jitter": -0.1}, "PCA color jitter -0.1: give 0"),
        ({"pca_jitter": float("inf")}, "PCA color jitter inf"),
        ({"pca_jitter": float("nan")}, "PCA color jitter nan"),
        ({"pca_jitter_scale": "variance"}, "pca_jitter_scale 'variance': give sqrt_eigenvalue or eigenvalue"),
    ],
)
def test_an_augmentation_out_of_range_is_refused(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Augmentation(**choices)


def test_without_dali_there_is_a_clear_message() -> None:
    code = (
        "import sys; sys.modules['nvidia.dali'] = None\n"
        "from alexnet_fast.tools.errors import UserError\n"
        "try:\n    import alexnet_fast.pipelines.loader\n"
        "except UserError as error:\n    print(error)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install nvidia-dali-cuda120" in finished.stdout, finished.stderr


def test_without_numba_there_is_a_clear_message(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pipelines.cpu_kernel", "tools.compilation"):
        monkeypatch.delitem(sys.modules, f"alexnet_fast.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with loader_of(tiny_dataset) as loader, pytest.raises(UserError, match=r"numba cannot be imported.*pip install"):
        next(loader.epoch(0))


def many(dataset: Dataset, epoch: int = 0, **choices: Any) -> list[torch.Tensor]:
    """An epoch's images and labels."""
    with loader_of(dataset, **choices) as loader:
        return [tensor.clone() for batch in loader.epoch(epoch) for tensor in (batch.images, batch.labels)]


@pytest.mark.parametrize("decode_batch", [4, 12, 20, 1000])
def test_the_stream_does_not_depend_on_the_decode_batch(tiny_dataset: Dataset, decode_batch: int) -> None:
    wanted = many(tiny_dataset)
    assert len(wanted) == 2 * 14
    found = many(tiny_dataset, options=LoaderOptions(2, decode_batch=decode_batch))
    assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("batches", [3, 4, 13])
@pytest.mark.parametrize(("before", "after"), [(12, 12), (4, 12), (59, 4)])
def test_an_epoch_resumes_whatever_the_decode_batches(
    tiny_dataset: Dataset, batches: int, before: int, after: int
) -> None:
    wanted = many(tiny_dataset, 3)
    with loader_of(tiny_dataset, options=LoaderOptions(1, decode_batch=before)) as loader:
        stream = loader.epoch(3)
        for _ in range(batches):
            next(stream)
        state = json.loads(json.dumps(loader.state_dict()))
    assert state["samples"] <= 4 * batches
    with loader_of(tiny_dataset, options=LoaderOptions(1, decode_batch=after)) as other:
        other.load_state_dict(state)
        found = [tensor.clone() for batch in other.epoch(3) for tensor in (batch.images, batch.labels)]
        again = [tensor.clone() for batch in other.epoch(3) for tensor in (batch.images, batch.labels)]
    assert len(found) == len(wanted) - 2 * batches
    assert all(map(torch.equal, found, wanted[2 * batches :]))
    assert len(again) == len(wanted) and all(map(torch.equal, again, wanted))


@pytest.mark.parametrize("ranks", [2, 3])
def test_exact_epochs_over_ranks_with_large_decode_batches(tiny_dataset: Dataset, ranks: int) -> None:
    for rank in range(ranks):
        choices: dict[str, Any] = {"rank": rank, "num_ranks": ranks}
        wanted = many(tiny_dataset, 1, **choices)
        found = many(tiny_dataset, 1, options=LoaderOptions(1, decode_batch=16), **choices)
        assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize(
    ("wanted", "batch_size", "num_batches", "expected"),
    [
        (1, 64, 100, 64),
        (64, 64, 100, 64),
        (1024, 128, 10_009, 1152),  # 1,251 of about 1,024: a ninth of one is decoded in vain
        (1024, 2048, 600, 2048),
        (1024, 128, 8, 1024),
        (1024, 128, 9, 1152),
        (1024, 128, 13, 896),
        (1024, 128, 1, 128),
    ],
)
def test_decoded_batches_fit_the_epoch(wanted: int, batch_size: int, num_batches: int, expected: int) -> None:
    assert LoaderSettings(1, 2, decode_batch=wanted).fitting_batch(batch_size, num_batches) == expected


def test_without_crop_and_mirror_every_image_is_the_evaluations_center_view(tiny_dataset: Dataset) -> None:
    cpu = torch.device("cpu")
    samples = tiny_dataset.split("val").samples
    with TrainingLoader(
        tiny_dataset,
        split="val",
        batch_size=samples,
        device=cpu,
        augmentation=Augmentation(crop_and_mirror=False, pca_jitter=0),
    ) as loader:
        (batch,) = loader.epoch(3)
    (whole,) = EvaluationLoader(tiny_dataset, split="val", batch_size=samples, device=cpu)
    expected = {view.numpy().tobytes() for view in whole.cut_view(0).contiguous()}
    assert {image.numpy().tobytes() for image in batch.images.contiguous()} == expected
