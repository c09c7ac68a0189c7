"""The loader's benchmarks: who is measured, what is counted, and what is made of it.  No speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from alexnet_fast.bench import baseline_loaders, interleaved, other_loaders, tune
from alexnet_fast.bench import loader as benchmark
from alexnet_fast.bench.measurement import Measurement
from alexnet_fast.commands import bench_command
from alexnet_fast.pipelines.decoded_cache import CachePlan, CacheRequest
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.pipeline_run import PipelineRun, to_torch
from alexnet_fast.pipelines.settings import LoaderOptions, LoaderSettings
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.sharding.tar_writer import read_samples

CPU = torch.device("cpu")
SETTINGS = LoaderSettings(1, 1, 0.65)


# ------------------------------------------------------------------------ turns


def test_turns_alternate_and_the_median_counts() -> None:
    order = []

    def taking(name: str, seconds: list[float]) -> interleaved.Candidate:
        def work(lead: int, count: int) -> interleaved.Took:
            order.append(name)
            assert (lead, count) == (interleaved.LEAD, 5)
            took = seconds.pop(0)
            return interleaved.Took(took, 2 * took)

        return interleaved.Candidate(name, work, {"of": name})

    rows = interleaved.measure_interleaved(
        [taking("a", [1.0, 4.0, 2.0]), taking("b", [0.5, 0.5, 0.5])], batch_size=8, count=5, turns=3, device=CPU
    )
    assert order == ["a", "b"] * 3
    assert [(row.name, row.rate, row.details["of"]) for row in rows] == [("a", 20.0, "a"), ("b", 80.0, "b")]
    assert rows[0].details["CPU µs"] == pytest.approx(2 * 2.0 / 40 * 1e6)
    assert rows[0].spread == pytest.approx((40 - 10) / 2 / 20) and rows[1].spread == 0


def test_only_the_batches_after_the_lead_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, closed = [0.0], []

    def stream() -> Iterator[int]:
        try:
            for number in range(9):
                clock[0] += 100 if number < 3 else 1
                yield number
        finally:
            closed.append(True)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert interleaved.stream_turn(stream, CPU, 3, 5).seconds == 5 and closed
    with pytest.raises(AssertionError, match="ended after 6 of 7"):
        interleaved.stream_turn(stream, CPU, 3, 7)


def test_processors_time_counts_the_processes_that_were_started() -> None:
    before, own = interleaved.cpu_seconds(), time.process_time()
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint('worked', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        counted, own = interleaved.cpu_seconds() - before, time.process_time() - own
        process.kill()
    assert 0.4 < counted - own < 2


class Filling:
    """A loader that tells what is done with it."""

    batch_size = 5

    def __init__(self) -> None:
        self.done: list[str] = []

    def epoch(self, number: int) -> Iterator[int]:
        self.done.append(f"epoch {number}")
        yield from range(4)
        self.done.append(f"end of {number}")

    def pause(self) -> None:
        self.done.append("pause")

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *error: object) -> None:
        self.done.append("close")


def test_images_are_kept_before_the_clock_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "TURNS", 2)
    monkeypatch.setattr(benchmark, "BATCHES", 6)
    monkeypatch.setattr(interleaved, "LEAD", 1)
    loader, begun = Filling(), []
    monkeypatch.setattr(interleaved, "finish", lambda device: begun.append(len(loader.done)))
    loading: Any = loader
    row = benchmark.measure_kept(loading, share=0.5, device=CPU)
    assert row.name == benchmark.DECODED_KEPT and row.rate > 0 and row.details["kept"] == "50%"
    turn = ["epoch 1", "end of 1", "epoch 2", "pause"]
    assert loader.done == ["epoch 0", "end of 0", *turn, *turn, "close"]  # one loader all the time
    assert loader.done[: begun[0]] == ["epoch 0", "end of 0", "epoch 1"]


@pytest.mark.usefixtures("short")
def test_a_real_loader_goes_through_it(tiny_dataset: Dataset) -> None:
    loader = benchmark.our_loader(tiny_dataset, CPU, 6, options=LoaderOptions(1))
    assert benchmark.measure_kept(loader, share=0, device=CPU).details["batch size"] == 6


# ------------------------------------------------------------ parts of our graph


def jpegs_of(dataset: Dataset) -> list[bytes]:
    found = []
    for tar in dataset.tars("train"):
        with tar.open("rb") as file:
            found += [sample.jpeg for sample in read_samples(file)]
    return found


def windows(pixels: np.ndarray[Any, Any]) -> Iterator[tuple[int, int, bool, np.ndarray[Any, Any]]]:
    """Every crop of an image, and its mirror image."""
    margin = pixels.shape[0] - CROP
    for y in range(margin + 1):
        for x in range(margin + 1):
            view = pixels[y : y + CROP, x : x + CROP]
            yield from ((y, x, False, view), (y, x, True, view[:, ::-1]))


def test_parts_of_the_graph_give_what_they_are_called(tiny_dataset: Dataset) -> None:
    parts = benchmark.Parts(tiny_dataset, CPU, 6, SETTINGS)

    def first(graph: Callable[[], tuple[Any, ...]]) -> torch.Tensor:
        images, digits = PipelineRun(graph, parts.execution, 1).next()
        assert to_torch(digits).shape == (6, 5)
        return to_torch(images).clone()

    size = tiny_dataset.image_options.size
    decoded, cropped = first(parts.decoded).numpy(), first(parts.cropped).numpy()
    assert decoded.shape == (6, size, size, 3) and first(parts.parsed).tolist() == [[size, size, 3]] * 6
    for whole, crop in zip(decoded, cropped, strict=True):
        assert any(np.array_equal(view, crop) for _, _, _, view in windows(whole))
    mean = tiny_dataset.statistics.mean_rgb
    assert first(parts.whole).mean((0, 1, 2)).numpy() == pytest.approx((decoded.mean((0, 1, 2)) - mean) / 1.1, abs=25)


# ------------------------------------------------------------------------ peers


def test_peers_do_the_work_that_our_graph_does(tiny_dataset: Dataset) -> None:
    """Crop, mirror, colors along the data set's directions, the mean image: undone, a crop of the image is left."""
    recipe, jpegs, statistics = (
        baseline_loaders.Recipe.of(tiny_dataset),
        jpegs_of(tiny_dataset),
        tiny_dataset.statistics,
    )
    np.random.seed(0)  # noqa: NPY002 (what the peers draw from)
    offsets, mirrored, along = [], [], []
    for jpeg in jpegs * 2:
        restored = recipe.view(jpeg).numpy() * 1.1 + recipe.mean
        pixels = decoded_by_pillow(jpeg)
        probes = np.random.default_rng(1).integers(0, CROP, (24, 2)).T
        spreads = [
            (np.ptp(restored[tuple(probes)] - view[tuple(probes)], axis=0).max(), (y, x, mirror))
            for y, x, mirror, view in windows(pixels)
        ]
        spread, (y, x, mirror) = min(spreads)
        assert spread < 1e-3  # the same color at every pixel
        view = pixels[y : y + CROP, x : x + CROP]
        shift = (restored - (view[:, ::-1] if mirror else view)).mean((0, 1))
        offsets += [y, x]
        mirrored.append(mirror)
        along.append(shift @ statistics.directions.T / statistics.standard_deviations)
    assert min(offsets) < 4 and max(offsets) > 28 and 0.3 < np.mean(mirrored) < 0.7
    assert stats.kstest(np.ravel(along), "norm", args=(0, 0.1)).pvalue > 1e-4
    assert np.abs(np.corrcoef(np.array(along).T) - np.eye(3)).max() < 0.4


def decoded_by_pillow(jpeg: bytes) -> np.ndarray[Any, Any]:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(np.float32)


@pytest.mark.usefixtures("short")
def test_all_loaders_are_measured_on_the_same_images(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(benchmark, "why_missing", lambda module: f"ImportError: {module}")
    rows = benchmark.measure_baselines(tiny_dataset, device=CPU, batch_size=6, num_threads=1, say=said.append)
    rates = {row.name: row.rate for row in rows}
    assert {
        "libjpeg-turbo alone", "DALI: decode only", "the same, as torch tensors", benchmark.MEAN_COLOR,
        benchmark.FULL_GRAPH, "torch DataLoader + Pillow", "webdataset + Pillow",
    } <= set(rates)  # fmt: skip
    (ours,) = (row for row in rows if row.name == benchmark.FULL_GRAPH)
    for row in rows:
        assert row.details["loader is"] == f"{ours.rate / row.rate:.2f}×"
        assert float(row.details["CPU µs"]) > 0
    assert ours.details["by CPU"] == "1.00×"
    assert any(line.startswith("Conversion to torch tensors: ") and "%" in line for line in said)
    for name, module in {"LitData + Pillow": "litdata", "SPDL": "spdl.io"}.items():
        assert f"{name} was not measured (ImportError: {module})." in said
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert benchmark.decoder_alone([], 6, 1, said.append) == []
    assert "pip install simplejpeg" in said[-1]


def test_images_in_memory_are_decoded_as_asked(tiny_dataset: Dataset) -> None:
    mean = baseline_loaders.Recipe.of(tiny_dataset).mean
    recipe = baseline_loaders.Recipe(mean, np.zeros((3, 3), np.float32), pca_jitter=0.0)
    decoded: list[bytes] = []

    def gray(jpeg: bytes) -> npt.NDArray[np.uint8]:
        decoded.append(jpeg)
        return np.full((256, 256, 3), 128, np.uint8)

    view, label = baseline_loaders.JpegsInMemory([(b"one", 3), (b"two", 4)], recipe, gray)[1]
    assert decoded == [b"two"] and label == 4
    assert np.array_equal(view.numpy(), 128 - mean)


@pytest.mark.parametrize("name", ["torchvision", "spdl"])
def test_other_decoders_decode_as_pillow_does(tiny_dataset: Dataset, name: str) -> None:
    if reason := baseline_loaders.why_missing(f"{name}.io"):
        pytest.skip(reason)
    decode = {"torchvision": other_loaders.with_torchvision, "spdl": other_loaders.with_spdl}[name]
    for jpeg in jpegs_of(tiny_dataset)[:5]:
        one, other = decode(jpeg), baseline_loaders.with_pillow(jpeg)
        difference = np.abs(one.astype(int) - other.astype(int))
        assert one.shape == other.shape and difference.max() <= 2 if name == "torchvision" else difference.mean() < 3


@pytest.mark.parametrize("name", other_loaders.OPTIONAL)
def test_loaders_that_need_not_be_installed_hand_out_each_image_once(tiny_dataset: Dataset, name: str) -> None:
    module, make = other_loaders.OPTIONAL[name]
    if reason := baseline_loaders.why_missing(module):
        pytest.skip(reason)
    jpegs = [(jpeg, label) for label, jpeg in enumerate(jpegs_of(tiny_dataset)[:10])]
    with ExitStack() as stack:
        stream = make(jpegs, baseline_loaders.Recipe.of(tiny_dataset), 5, 1, stack)
        for _ in range(2):
            batches: list[Any] = list(stream())
            assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(10))
            for images, _ in batches:
                assert images.shape == (5, 3, CROP, CROP) and images.dtype == torch.float32
                assert images.is_contiguous(memory_format=torch.channels_last)


def test_what_cannot_be_imported_has_a_reason() -> None:
    assert baseline_loaders.why_missing("json") is None
    assert baseline_loaders.why_missing("no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"


def test_other_peoples_loaders_hand_out_channels_last_batches(tiny_dataset: Dataset) -> None:
    recipe = baseline_loaders.Recipe.of(tiny_dataset)
    jpegs = [(jpeg, 7) for jpeg in jpegs_of(tiny_dataset)]
    for stream in (
        baseline_loaders.torch_loader(jpegs, recipe, 5, 1)(),
        baseline_loaders.webdataset_loader(tiny_dataset, "train", recipe, 5, 1)(),
    ):
        batch: Any = next(stream)
        images, labels = batch
        assert images.shape == (5, 3, CROP, CROP) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last) and len(labels) == 5


# ------------------------------------------------------------------------- FFCV

FAKE_PEER = """
import json, sys
import numpy as np
stored = np.load(sys.argv[1] + "/jpegs.npz")
print("noise of a library")
print("answer", json.dumps(["FFCV " + str(stored["lengths"].tolist())]), flush=True)
for line in sys.stdin:
    name, lead, count = json.loads(line)
    if count == 13:
        raise SystemExit("no luck")
    print("answer", json.dumps([lead + count / 4, 9]), flush=True)
"""


def test_ffcv_is_asked_in_a_process_of_its_own(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer.py").write_text(FAKE_PEER)
    monkeypatch.setattr(baseline_loaders, "FFCV_BASELINE", tmp_path / "peer.py")
    monkeypatch.setattr(baseline_loaders, "check_ffcv", lambda python: None)
    recipe = baseline_loaders.Recipe.of(tiny_dataset)
    with baseline_loaders.open_ffcv(Path(sys.executable), [(b"12", 0), (b"345", 1)], recipe, 4, 1) as (candidate,):
        assert candidate.name == "FFCV [2, 3]"
        assert candidate.turn(2, 2) == interleaved.Took(2.5, 9)
        with pytest.raises(UserError, match=r"no luck.*Leave --ffcv-python out"):
            candidate.turn(1, 13)


@pytest.mark.parametrize(
    ("python", "words"), [("/none/python", "cannot be started"), (sys.executable, "cannot import")]
)
def test_a_python_without_ffcv_gets_a_clear_message(python: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        baseline_loaders.check_ffcv(Path(python))


# ---------------------------------------------------------------------- command


@pytest.mark.usefixtures("short")
def test_rows_of_the_sweep_are_in_the_json(tiny_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "loader.json"
    words = ["loader", str(tiny_shards), "--device", "cpu", "--batch-size", "6", "--threads", "1", "--tune"]
    bench_command.command.main([*words, "--json", str(file)], standalone_mode=False)
    names = [row["name"] for row in json.loads(file.read_text())["rows"]]
    assert names[0] == benchmark.FULL_GRAPH
    assert "1 thread, prefetch 4" in names and tune.DISK in names


@pytest.mark.parametrize(("mib", "rows"), [(7, 2), (0, 1)])
def test_a_row_for_images_that_are_kept(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mib: int, rows: int
) -> None:
    def kept(loader: TrainingLoader, *, share: float, device: torch.device) -> Measurement:
        return Measurement(f"kept, {share:.0%}", 2.0)

    def opened(*arguments: object, cache: CacheRequest, **settings: object) -> Any:
        assert cache.size == 0.5
        return SimpleNamespace(cache=CachePlan(mib, 59, 3 * 256**2))

    monkeypatch.setattr(benchmark, "measure_loader", lambda *arguments, **settings: Measurement("decoded", 1.0))
    monkeypatch.setattr(benchmark, "measure_kept", kept)
    monkeypatch.setattr(benchmark, "our_loader", opened)
    bench = bench_command.Bench("cpu", 4, "2013", "auto", 1, None, None)
    bench.cache_decoded = 0.5
    assert [row.name for row in bench.loader(tiny_dataset)] == ["decoded", "kept, 63%"][:rows]
    assert "decoded images are kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["loader", "--device", "cpu", "--cache-decoded", "auto"], "on a CPU there is no GPU memory"),
        (["loader", "--device", "cpu", "--cache-decoded", "much"], "--cache-decoded much: give auto, or a number"),
        (["all", "--cache-decoded", "auto"], "--cache-decoded is about the loader"),
    ],
)
def test_what_can_keep_nothing(tiny_shards: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        bench_command.command.main([words[0], str(tiny_shards), *words[1:]], standalone_mode=False)


def test_a_python_for_ffcv_is_for_peers(tiny_shards: Path) -> None:
    with pytest.raises(UsageError, match="--ffcv-python is about the loader's baselines"):
        bench_command.command.main(["loader", str(tiny_shards), "--ffcv-python", "python"], standalone_mode=False)
