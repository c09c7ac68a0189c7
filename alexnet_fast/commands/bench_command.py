"""`alexnet-fast bench`: img/s of the loader, the model and both together; which one is the bottleneck."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from alexnet_fast.bench.measurement import Measurement, table
from alexnet_fast.commands.threads_option import threads_option
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import terminal_columns
from alexnet_fast.tools.temporary import temporary_folder

PARTS = ("all", "loader", "model", "train")
FULL_SWEEP = (128, 256, 512, 1024, 2048)
"""Batch sizes that `bench model` goes through on a GPU."""
CPU_SWEEP = (64,)
MOST_IMAGES = 1_000_000
"""Of a batch; larger values are taken for typing errors."""


@click.command()
@click.argument("arguments", metavar="[PART] [DATA]", nargs=-1)
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: the GPU where there is one]")
@click.option(
    "--batch-size", type=click.IntRange(1, MOST_IMAGES), default=None, help="[default: 64 on a CPU, 1024 on a GPU]"
)
@click.option("--recipe", "recipe_name", default="2013", show_default=True, help="Whose network is trained.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True)
@threads_option(expose=True)
@click.option(
    "--cache-decoded",
    metavar="auto|GiB",
    default=None,
    help="Also the loader with decoded images kept on the GPU, as `train` would.  Not tried on a GPU yet.",
)
@click.option("--baselines", is_flag=True, help="Also the baselines: other loaders, other implementations of AlexNet.")
@click.option("--gpus", type=click.IntRange(1), default=None, help="Measure training on so many GPUs.")
@click.option(
    "--ffcv-python", type=click.Path(path_type=Path), default=None, help="A Python with FFCV, for --baselines."
)
@click.option("--tune", is_flag=True, help="Find the loader's best settings for this machine and keep them.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None, help="Also write the rows there.")
def command(
    arguments: tuple[str, ...],
    device: str | None,
    batch_size: int | None,
    recipe_name: str,
    precision: str,
    threads: int | None,
    cache_decoded: str | None,
    baselines: bool,
    gpus: int | None,
    ffcv_python: Path | None,
    tune: bool,
    json_file: Path | None,
) -> None:
    """Measure img/s of PART: loader, model, train, or all (the default) and which is the bottleneck.

    DATA is a shards folder.  Without it, a small data set is drawn and sharded for the time of the measurement.
    """
    part, data = part_and_data(arguments)
    if tune and part not in ("loader", "all"):
        raise UsageError(f"--tune is about the loader: `alexnet-fast bench loader --tune`, not `bench {part}`.")
    if gpus is not None and part != "train":
        raise UsageError("--gpus is about training: `alexnet-fast bench train --gpus 2`.")
    if cache_decoded is not None and part != "loader":
        raise UsageError("--cache-decoded is about the loader: `alexnet-fast bench loader --cache-decoded auto`.")
    if ffcv_python is not None and not (baselines and part in ("loader", "all")):
        raise UsageError("--ffcv-python is about the loader's baselines: `alexnet-fast bench loader --baselines`.")
    if json_file is not None:
        check_can_be_written(json_file)
    if ffcv_python is not None:
        from alexnet_fast.bench.baseline_loaders import check_ffcv

        check_ffcv(ffcv_python)
    bench = Bench(device, batch_size, recipe_name, precision, threads, ffcv_python, cache_decoded)
    rows: list[Measurement] = []
    with explained_memory():
        if part == "model":
            rows += bench.model(baselines)
        else:
            with shards_to_read(data) as folder:
                rows += bench.with_data(part, folder, baselines=baselines, tune=tune)
                if gpus is not None:
                    rows += bench.processes(folder, gpus)
    if json_file is not None:
        write_json(json_file, part, rows)


def part_and_data(arguments: Sequence[str]) -> tuple[str, Path | None]:
    """What `[PART] [DATA]` says; a folder that is called as a part is given as ./model."""
    part, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in PARTS else ("all", arguments)
    if len(rest) > 1 or "" in rest:
        raise UsageError(
            f"bench {' '.join(map(repr, arguments))}: give a part ({', '.join(PARTS)}), a folder, or both."
        )
    return part, Path(rest[0]) if rest else None


MOST_SHUFFLED = 100_000
"""Samples of which the order is looked at."""


class Bench:
    """The measurements with what they share."""

    def __init__(
        self,
        device: str | None,
        batch_size: int | None,
        recipe_name: str,
        precision: str,
        threads: int | None,
        ffcv_python: Path | None,
        cache_decoded: str | None,
    ) -> None:
        from alexnet_fast.config.precision import choose_precision
        from alexnet_fast.config.recipe import load_recipe
        from alexnet_fast.distributed.devices import use_device
        from alexnet_fast.pipelines.decoded_cache import check_gpu_memory, parse_cache_size

        self.device = use_device(device)
        self.on_gpu = self.device.type == "cuda"
        self.cache_decoded = None if cache_decoded is None else parse_cache_size(cache_decoded)
        if self.cache_decoded is not None:
            check_gpu_memory(self.device.type)
        self.asked_batch_size = batch_size
        self.batch_size = batch_size or (1024 if self.on_gpu else 64)
        self.tuned_batch_size = batch_size or load_recipe(recipe_name, []).batch_size
        """What `train` will use: the recipe's."""
        self.precision = choose_precision(self.device, precision)
        self.threads = threads
        self.ffcv_python = ffcv_python
        settings = [f"batch_size={self.batch_size}"]
        if precision != "auto":
            settings.append(f"precision={precision}")
        self.recipe = load_recipe(recipe_name, settings)

    def model(self, baselines: bool) -> list[Measurement]:
        """Forward, training step, the same without norms, layers against the device's limits; the baselines' step."""
        from alexnet_fast.bench.layers import measure_layers
        from alexnet_fast.bench.model import measure_model

        batch_sizes = (
            (FULL_SWEEP if self.on_gpu else CPU_SWEEP) if self.asked_batch_size is None else (self.batch_size,)
        )
        rows = measure_model(device=self.device, batch_sizes=batch_sizes, precision=self.precision, baselines=baselines)
        show_table("Model, synthetic input", rows)
        layers = measure_layers(
            self.recipe.architecture(1000), device=self.device, batch_size=self.batch_size, precision=self.precision
        )
        show_table("Layers against this device's limits", layers)
        return [*rows, *layers, *(self.towers(batch_sizes) if self.on_gpu else [])]

    def towers(self, batch_sizes: Sequence[int]) -> list[Measurement]:
        """One tower alone, and from it what two GPUs would reach."""
        from alexnet_fast.bench.tower import ASSUMPTIONS, measure_towers

        architecture = self.recipe.architecture(1000)
        if architecture.num_towers != 2:
            return []
        rows = measure_towers(architecture, device=self.device, batch_sizes=batch_sizes, precision=self.precision)
        show_table("One tower alone, and what two GPUs would reach", rows)
        click.echo(ASSUMPTIONS)
        return rows

    def with_data(self, part: str, folder: Path, *, baselines: bool, tune: bool) -> list[Measurement]:
        """Everything that reads shards."""
        dataset = Dataset.load(folder)
        dataset.check_sizes()
        tuned = self.tune(dataset) if tune else []
        rows = {"loader": self.loader, "train": self.training, "all": self.everything}[part](dataset)
        show_table("img/s", rows)
        if part == "loader":
            click.echo(self.shuffle(dataset))
        if part == "all":
            click.echo(bottleneck(rows[0].rate, rows[1].rate, rows[2].rate, shared=not self.on_gpu))
        if baselines:
            rows += self.baselines(part, dataset)
        return [*rows, *tuned]

    def tune(self, dataset: Dataset) -> list[Measurement]:
        """The sweep and the limits; the best is kept for `train`."""
        from alexnet_fast.bench.tune import tune

        rows = tune(
            dataset, device=self.device, batch_size=self.tuned_batch_size, num_threads=self.threads, say=click.echo
        )
        show_table("Loader settings, and what each stage alone would reach", rows)
        return rows

    def loader(self, dataset: Dataset) -> list[Measurement]:
        """From the shards to torch tensors."""
        from alexnet_fast.bench.loader import measure_kept, measure_loader, our_loader
        from alexnet_fast.pipelines.decoded_cache import CacheRequest
        from alexnet_fast.pipelines.settings import LoaderOptions

        keeping = None
        if self.cache_decoded is not None:
            keeping = our_loader(
                dataset,
                self.device,
                self.batch_size,
                options=LoaderOptions(self.threads),
                cache=CacheRequest(self.cache_decoded),
            )
            assert keeping.cache is not None
            click.echo(keeping.cache.describe())
        row = measure_loader(dataset, device=self.device, batch_size=self.batch_size, num_threads=self.threads)
        if keeping is None or keeping.cache is None or not keeping.cache.mib:
            return [row]
        return [row, measure_kept(keeping, share=keeping.cache.share, device=self.device)]

    def shuffle(self, dataset: Dataset) -> str:
        """How well epochs are shuffled, in a line; all labels are read for it."""
        from alexnet_fast.bench.shuffle_quality import measure_shuffle
        from alexnet_fast.pipelines.loader import TrainingLoader

        samples = dataset.splits["train"].samples
        if samples > MOST_SHUFFLED:
            return f"shuffle: not measured, reading {samples:,} labels would take long"
        loader = TrainingLoader(dataset, batch_size=min(self.batch_size, samples), device=self.device, seed=0)
        return measure_shuffle(loader).describe()

    def training(self, dataset: Dataset) -> list[Measurement]:
        """The trainer: what it costs over the bare step, and end to end."""
        from alexnet_fast.bench.train import measure_trainer_overhead

        return [*measure_trainer_overhead(self.recipe, dataset, device=self.device), self.end_to_end(dataset)]

    def everything(self, dataset: Dataset) -> list[Measurement]:
        """Loader alone, model alone, end to end: in this order."""
        from alexnet_fast.bench.model import measure_step

        step = measure_step(
            self.recipe.architecture(1000), device=self.device, batch_size=self.batch_size, precision=self.precision
        )
        return [*self.loader(dataset), step, self.end_to_end(dataset)]

    def end_to_end(self, dataset: Dataset) -> Measurement:
        """`train`, without its validation."""
        from alexnet_fast.bench.train import measure_training

        return measure_training(dataset, self.recipe, device=self.device)

    def processes(self, folder: Path, gpus: int) -> list[Measurement]:
        """`train` on several GPUs."""
        from alexnet_fast.bench.train import measure_processes

        row = measure_processes(Dataset.load(folder), self.recipe, gpus=gpus, processes=None)
        show_table("On several GPUs", [row])
        return [row]

    def baselines(self, part: str, dataset: Dataset) -> list[Measurement]:
        """The baselines of the parts that were measured."""
        rows: list[Measurement] = []
        if part in ("loader", "all"):
            from alexnet_fast.bench.loader import measure_baselines

            rows += measure_baselines(
                dataset, device=self.device, batch_size=self.batch_size, num_threads=self.threads,
                ffcv_python=self.ffcv_python, say=click.echo,
            )  # fmt: skip
            show_table("Loaders on the same images", rows)
        if part == "all":
            rows += self.model(baselines=True)
        return rows


@contextmanager
def explained_memory() -> Iterator[None]:
    """In the block memory that is too small, a GPU's or the host's, is a UserError."""
    import torch

    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU's has no class of its own
        reason = str(error).partition("\n")[0]
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in reason:
            raise
        raise UserError(
            f"what is measured does not fit into memory ({reason}). Give a smaller --batch-size."
        ) from error


@contextmanager
def shards_to_read(data: Path | None) -> Iterator[Path]:
    """The user's shards folder, or one of drawn images that lasts as long as the measurement."""
    if data is not None:
        yield data
        return
    from alexnet_fast.demo.tour import draw_shards

    with temporary_folder("bench") as folder:
        click.echo("No DATA: drawing a small data set.  Give a shards folder to measure on your own images.")
        yield draw_shards(folder)


def bottleneck(loader: float, model: float, training: float, *, shared: bool) -> str:
    """A paragraph: which part limits training.  `shared`: loader and model compete for the same cores."""
    slower, name = min((loader, "loader"), (model, "model"))
    faster = "model" if name == "loader" else "loader"
    lines = [f"The {name} is the bottleneck: the {faster} alone is {max(loader, model) / slower:.1f} times as fast."]
    if shared:
        together = 1 / (1 / loader + 1 / model)
        lines.append(
            f"Loader and model share these cores, so the most they can reach together is {together:,.0f} img/s; "
            f"training reaches {training / together:.0%} of that."
        )
    else:
        lines.append(f"Training reaches {training / slower:.0%} of the {name} alone.")
    return "\n".join(lines)


def show_table(title: str, rows: Sequence[Measurement]) -> None:
    """Print the rows under a title."""
    click.echo(f"\n{title}\n{table(rows, terminal_columns(sys.stdout))}")


def check_can_be_written(file: Path) -> None:
    """UserError where `write_json` could not write there: to be known before anything is measured."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"--json {file}: there is no folder {folder}; make it first.")
    if file.exists() and not file.is_file():
        kind = "folder" if file.is_dir() else "device or a pipe, which would be replaced"
        raise UsageError(f"--json {file}: is a {kind}; give a file's name.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(file, error) from error


def cannot_write(file: Path, error: OSError) -> UserError:
    """What to say, and what to do."""
    return UserError(f"--json {file}: cannot be written ({error.strerror}). Give a file in another folder.")


def write_json(file: Path, part: str, rows: Sequence[Measurement]) -> None:
    """The rows with what they were measured on."""
    from alexnet_fast.distributed.machine import describe_machine
    from alexnet_fast.tools import atomic

    text = json.dumps(
        {"part": part, "machine": describe_machine(), "rows": [asdict(row) for row in rows]}, indent=2, default=str
    )
    try:
        atomic.write_text(file, text + "\n")
    except OSError as error:
        raise cannot_write(file, error) from error
    click.echo(f"Written to {file}")
