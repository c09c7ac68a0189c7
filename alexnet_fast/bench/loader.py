"""Throughput (img/s) of our loader, of its parts, and of the baselines, on the same JPEGs.

The file cache is warm; rates are of the middle of an epoch, without its start.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_fast.bench.baseline_loaders import (
    Recipe,
    all_jpegs,
    open_ffcv,
    torch_loader,
    webdataset_loader,
    why_missing,
)
from alexnet_fast.bench.interleaved import LEAD, Candidate, measure_interleaved, stream_turn
from alexnet_fast.bench.measurement import Measurement
from alexnet_fast.bench.other_loaders import OPTIONAL
from alexnet_fast.pipelines.augmentation import EpochAugmentation, draw, training_graph
from alexnet_fast.pipelines.dali import fn, types
from alexnet_fast.pipelines.decoding import Decoding, decode
from alexnet_fast.pipelines.loader import TrainingLoader
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading, labels_of, read_samples
from alexnet_fast.pipelines.settings import LoaderOptions, LoaderSettings
from alexnet_fast.tools.cores import num_cores
from alexnet_fast.tools.crop import CROP
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.freed_memory import keep_freed_memory

SPLIT = "train"
TURNS = 7
BATCHES = 20
"""Timed in one turn: short, so that the turns of two loaders see the same neighbors on the machine."""
FULL_GRAPH = "loader, shards to torch"
MEAN_COLOR = "loader, mean color"
DECODED_KEPT = "loader, decoded images kept"


def measure_loader(dataset: Dataset, *, device: torch.device, batch_size: int, num_threads: int | None) -> Measurement:
    """Our whole graph, from the shards to torch tensors: crop, mirror, PCA color jitter, mean image."""
    named = {FULL_GRAPH: LoaderOptions(num_threads)}
    (row,) = measure_settings(named, dataset, device, batch_size, turns=TURNS, count=BATCHES)
    return row


def measure_settings(
    named: Mapping[str, LoaderOptions],
    dataset: Dataset,
    device: torch.device,
    batch_size: int,
    *,
    turns: int,
    count: int,
) -> list[Measurement]:
    """Our loader with each of the named settings, in turns of `count` batches; one of them is open at a time."""
    loaders = {name: our_loader(dataset, device, batch_size, options=options) for name, options in named.items()}
    candidates = [
        Candidate(name, partial(stream_turn, partial(epochs, loader), device)) for name, loader in loaders.items()
    ]
    return measure_interleaved(candidates, batch_size=batch_size, count=count, turns=turns, device=device)


def measure_kept(loader: TrainingLoader, *, share: float, device: torch.device) -> Measurement:
    """Our whole graph again, after a whole epoch was decoded into what `loader` keeps: of `share` of the images.

    Has not run on a GPU yet, and keeps nothing on a CPU.
    """
    with loader:
        for _ in loader.epoch(0):
            pass
        turn = partial(stream_turn, partial(epochs, loader, first=1), device)
        candidate = Candidate(DECODED_KEPT, turn, {"kept": f"{share:.0%}"})
        (row,) = measure_interleaved(
            [candidate], batch_size=loader.batch_size, count=BATCHES, turns=TURNS, device=device
        )
    return row


def our_loader(dataset: Dataset, device: torch.device, batch_size: int, **settings: Any) -> TrainingLoader:
    """As `train` makes it, but with nothing of the mean image left to the training step."""
    if device.type == "cpu":
        keep_freed_memory()  # as the step does in `train`; the baselines do their work in processes of their own
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return TrainingLoader(dataset, batch_size=batch_size, device=device, seed=0, dtype=dtype, **settings)


def epochs(loader: TrainingLoader, first: int = 0) -> Iterator[object]:
    """Epoch after epoch; a small data set needs several for one turn."""
    number = first
    try:
        while True:
            yield from loader.epoch(number)
            number += 1
    finally:
        loader.pause()  # nothing of this loader runs in the others' turns


def measure_baselines(
    dataset: Dataset,
    *,
    device: torch.device,
    batch_size: int,
    num_threads: int | None,
    ffcv_python: Path | None = None,
    say: Callable[[str], None],
) -> list[Measurement]:
    """The limit, our graph and its parts, and the baseline loaders, interleaved.

    ffcv_python: a Python that can import FFCV, which needs older libraries than ours; None leaves FFCV out.
    """
    threads, converting = num_threads if num_threads is not None else num_cores(), TensorConversion()
    jpegs = list(islice(all_jpegs(dataset, SPLIT), (LEAD + BATCHES) * batch_size))
    recipe = Recipe.of(dataset)
    parts = Parts(dataset, device, batch_size, LoaderOptions(num_threads).settings(device))

    def ours(**choices: Any) -> Callable[[], Iterator[object]]:
        return partial(epochs, our_loader(dataset, device, batch_size, options=LoaderOptions(num_threads), **choices))

    with ExitStack() as stack:
        streams = {
            "DALI: decode only": parts.stream(parts.decoded),
            "DALI: decode, crop, mirror, uint8": parts.stream(parts.cropped),
            "DALI: whole graph but the mean image": parts.stream(parts.whole),
            "the same, as torch tensors": parts.stream(parts.whole, converting),
            MEAN_COLOR: ours(mean="rgb"),
            FULL_GRAPH: ours(),
            "torch DataLoader + Pillow": torch_loader(jpegs, recipe, batch_size, threads),
            "webdataset + Pillow": webdataset_loader(dataset, SPLIT, recipe, batch_size, threads),
        }
        for name, (module, make) in OPTIONAL.items():
            if (reason := why_missing(module)) is None:
                streams[name] = make(jpegs, recipe, batch_size, threads, stack)
            else:
                say(f"{name} was not measured ({reason}).")
        candidates = [Candidate(name, partial(stream_turn, stream, device)) for name, stream in streams.items()]
        candidates[:0] = decoder_alone(jpegs, batch_size, threads, say)
        if ffcv_python is not None:
            candidates += stack.enter_context(open_ffcv(ffcv_python, jpegs, recipe, batch_size, threads))
        rows = measure_interleaved(candidates, batch_size=batch_size, count=BATCHES, turns=TURNS, device=device)
    say(converting.share())
    return compared(rows, FULL_GRAPH)


def compared(rows: list[Measurement], name: str) -> list[Measurement]:
    """The rows with columns: how many times as fast the row called `name` is, by the clock and by processors' time."""
    (ours,) = (row for row in rows if row.name == name)

    def columns(row: Measurement) -> dict[str, str]:
        saved = float(row.details["CPU µs"]) / float(ours.details["CPU µs"])
        return {"loader is": f"{ours.rate / row.rate:.2f}×", "by CPU": f"{saved:.2f}×"}

    return [Measurement(row.name, row.rate, row.spread, {**row.details, **columns(row)}) for row in rows]


# ----------------------------------------------------------------------- limit


def decoder_alone(
    jpegs: list[tuple[bytes, int]], batch_size: int, threads: int, say: Callable[[str], None]
) -> list[Candidate]:
    """libjpeg-turbo in threads, pixels thrown away: no loader that decodes on these cores can be faster."""
    try:
        import simplejpeg
    except ImportError:
        say("libjpeg-turbo alone was not measured: `pip install simplejpeg` brings it.")
        return []

    def decode_batch(batch: list[bytes]) -> None:
        for jpeg in batch:
            simplejpeg.decode_jpeg(jpeg)

    def stream() -> Iterator[object]:
        source = cycle([jpeg for jpeg, _ in jpegs])
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            while True:
                while len(pending) < 2 * threads:
                    pending.append(pool.submit(decode_batch, list(islice(source, batch_size))))
                yield pending.popleft().result()

    return [Candidate("libjpeg-turbo alone", partial(stream_turn, stream, torch.device("cpu")))]


# ----------------------------------------------------------- parts of our graph


class Parts:
    """Our graph up to some point."""

    def __init__(self, dataset: Dataset, device: torch.device, batch_size: int, settings: LoaderSettings) -> None:
        self.dataset = dataset
        self.device = device
        self.execution = Execution(batch_size, device, settings.num_threads, settings.prefetch)
        size = dataset.image_options.size
        self.decoding = Decoding.on(device, size, settings.decode_on, settings.hw_decoder_load)
        self.reading = Reading.of(
            dataset.tars(SPLIT), dataset.indexes(SPLIT), rank=0, num_ranks=1,
            shuffle_buffer=min(8192, dataset.split(SPLIT).samples), seed=0,
        )  # fmt: skip

    def read(self) -> tuple[Any, ...]:
        """Compressed images and their labels' digits, in host memory."""
        return read_samples(self.reading)

    def parsed(self) -> tuple[Any, ...]:
        """The size in each JPEG's header."""
        jpeg, digits = read_samples(self.reading)
        return fn.peek_image_shape(jpeg), digits

    def decoded(self) -> tuple[Any, ...]:
        """Whole images, uint8."""
        jpeg, digits = read_samples(self.reading)
        return decode(jpeg, self.decoding), digits

    def cropped(self) -> tuple[Any, ...]:
        """Random crops, mirrored or not, uint8."""
        pixels, digits = self.decoded()
        draws = draw(self.augmentation(), self.decoding.size)
        pixels = fn.slice(pixels, start=draws.corner, shape=(CROP, CROP), axis_names="HW")
        return fn.flip(pixels, horizontal=draws.mirror), digits

    def whole(self) -> tuple[Any, ...]:
        """Everything in DALI, with a mean color: what the training loader runs on a GPU."""
        dtype = types.FLOAT16 if self.device.type == "cuda" else types.FLOAT
        return training_graph(self.reading, self.decoding, self.augmentation(), dtype)

    def augmentation(self) -> EpochAugmentation:
        recipe, mean = Recipe.of(self.dataset), self.dataset.statistics.mean_rgb.astype(np.float32)
        return EpochAugmentation(
            mean, recipe.directions, strength=recipe.pca_jitter, divisor=1 + recipe.pca_jitter, seed=0, epoch=0, rank=0
        )

    def stream(
        self, graph: Callable[[], tuple[Any, ...]], use: Callable[[tuple[Any, ...]], object] | None = None
    ) -> Callable[[], Iterator[object]]:
        """Batches left in DALI's memory, or what `use` makes of them."""

        def batches() -> Iterator[object]:
            num_batches = LEAD + BATCHES
            with closing(PipelineRun(graph, self.execution, num_batches)) as run:
                for _ in range(num_batches):
                    outputs = run.next()
                    yield outputs if use is None else use(outputs)

        return batches


class TensorConversion:
    """Converts batches to torch tensors, and measures the time that takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.begun: list[float] = []

    def __call__(self, outputs: tuple[Any, ...]) -> object:
        start = time.perf_counter()
        images, digits = (to_torch(output) for output in outputs)
        batch = images.permute(0, 3, 1, 2), labels_of(digits)
        self.begun.append(start)
        self.seconds.append(time.perf_counter() - start)
        return batch

    def share(self) -> str:
        """A line: the median time of a batch's conversion to torch, and its share of the time per batch."""
        conversion, period = float(np.median(self.seconds)), float(np.median(np.diff(self.begun)))
        return (
            f"Conversion to torch tensors: {1000 * conversion:.3f} ms a batch, {conversion / period:.2%} of its time."
        )
