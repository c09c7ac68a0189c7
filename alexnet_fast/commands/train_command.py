"""`alexnet-fast train`: shards → a trained network."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from alexnet_fast.commands.threads_option import threads_option
from alexnet_fast.commands.train_flags import with_flags
from alexnet_fast.distributed.torchrun_env import is_local_main_rank, is_main_rank
from alexnet_fast.runs.resume_command import options_to_repeat, resume_command, with_command
from alexnet_fast.tools.dataset import MANIFEST
from alexnet_fast.tools.errors import StoppedError, UserError
from alexnet_fast.tools.messages import command as command_line
from alexnet_fast.tools.messages import counted, to_copy

if TYPE_CHECKING:
    from alexnet_fast.tools.dataset import Dataset

DEFAULT_RECIPE = "2013"
DATA_VARIABLE = "ALEXNET_FAST_DATA"


@click.command()
@click.argument("data", type=click.Path(path_type=Path), default="shards", envvar=DATA_VARIABLE)
@click.option(
    "--recipe",
    "recipe_name",
    default=None,
    help="A recipe's name, or a .toml file.  [default: 2013; with --resume the run's]",
)
@click.option("--epochs", type=float, default=None, help="Length of the run; its schedule keeps its proportions.")
@click.option("--batch-size", type=int, default=None, help="Images of a step, all processes together.")
@click.option(
    "--lr",
    type=float,
    default=None,
    help="First learning rate of the weights; that of the biases and the whole schedule are scaled with it.",
)
@click.option("--seed", type=int, default=None, help="Of initialization, order, crops, mirrors, colors and dropout.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    default=None,
    help="Start from the weights of a checkpoint, or of Caffe's AlexNet (.npz); fc8 anew where the classes are others.",
)
@click.option("--freeze", metavar="LAYER,…", default=None, help="Layers that keep the weights of --init: conv1,conv2.")
@click.option("--val-split", default=None, help="Evaluate on this split of DATA instead of val, such as test.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a key of the recipe; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The run's folder.  [default: runs/RECIPE]")
@click.option(
    "--resume",
    metavar="[CHECKPOINT]",
    is_flag=False,
    flag_value="",
    default=None,
    help="Resume the run in that folder, from its newest checkpoint or from CHECKPOINT (newer ones are set aside); "
    "with a new --out, a new run starts from CHECKPOINT.",
)
@threads_option()
@click.option("--device", default=None, help="cpu, cuda or cuda:1.  [default: all GPUs, else the CPU]")
@click.option("--gpus", type=int, default=None, help="How many GPUs; two are one tower each.")
@click.option("--processes", type=int, default=None, help="On the CPU: how many processes, to try what GPUs would do.")
@click.option(
    "--parallel",
    type=click.Choice(["auto", "towers", "data"]),
    default="auto",
    show_default=True,
    help="Split the towers, the batch, or whatever sends fewer bytes.",
)
@click.option(
    "--cache-decoded",
    metavar="auto|GiB",
    default=None,
    help="Keep decoded images in each GPU's memory: as much as is left, or so many GiB.  Not tried on a GPU yet.",
)
@click.option("--check-hashes", is_flag=True, help="First read every byte of DATA, as `verify` does.")
@click.option(
    "--deterministic", is_flag=True, help="Bit-equal runs on a GPU too; slower: `bench model` says by how much."
)
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def command(
    data: Path,
    recipe_name: str | None,
    epochs: float | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    init: Path | None,
    freeze: str | None,
    val_split: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    resume: str | None,
    device: str | None,
    gpus: int | None,
    processes: int | None,
    parallel: str,
    cache_decoded: str | None,
    check_hashes: bool,
    deterministic: bool,
    quiet: bool,
) -> None:
    """Train AlexNet on DATA, a shards folder ($ALEXNET_FAST_DATA, else ./shards).

    Everything goes into the run's folder: recipe.toml, metrics.jsonl, checkpoints, figures, result.json.  Ctrl-C,
    SIGTERM, SIGHUP (a lost terminal), SIGUSR1 and SIGUSR2 finish the step, save and stop, with exit code 128 + the
    signal's number; a second Ctrl-C stops at once.  --resume continues where the run stood, to the image, by the run's
    own recipe.toml if no --recipe is given; --set changes that.
    """
    run: Path | None = out
    try:
        # Torch is imported here, which takes seconds in which Ctrl-C must be answered too.
        from alexnet_fast.config.recipe import load_recipe, override
        from alexnet_fast.pipelines.decoded_cache import parse_cache_size
        from alexnet_fast.runs.resume import Resume, recipe_to_resume, resume_target
        from alexnet_fast.tools.dataset import Dataset
        from alexnet_fast.training.run import train

        cache_size = None if cache_decoded is None else parse_cache_size(cache_decoded)
        if resume and names_data(resume):  # train --resume DATA
            data, resume = Path(resume), ""
        recipe = load_recipe(recipe_name or DEFAULT_RECIPE, settings) if recipe_name or resume is None else None
        default = Path("runs") / (recipe.name if recipe is not None else DEFAULT_RECIPE)
        run = out if out is not None else default
        start: Resume | None = None
        if resume is not None:
            start = resume_target(Path(resume) if resume else None, out, default)
            run = start.run
            recipe = recipe if recipe is not None else override(recipe_to_resume(start), settings)
        assert recipe is not None
        recipe = with_flags(
            recipe, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, val_split=val_split, init=init,
            freeze=freeze,
        )  # fmt: skip
        dataset = Dataset.load(data)
        if check_hashes and is_local_main_rank():  # of torchrun's processes one on each machine
            check_every_byte(dataset, quiet=quiet)
        result = train(
            dataset,
            recipe,
            run,
            resume=start is not None and not start.begins_run,
            checkpoint=start.checkpoint if start is not None else None,
            device=device,
            gpus=gpus,
            processes=processes,
            parallel=parallel,
            quiet=quiet,
            deterministic=deterministic,
            cache_decoded=cache_size,
        )
    except KeyboardInterrupt as error:
        options = options_to_repeat(
            device=device, gpus=gpus, processes=processes, parallel=parallel, deterministic=deterministic,
            cache_decoded=cache_decoded,
        )  # fmt: skip
        raise stopped_at_once(data, run, options, *error.args) from error
    if not quiet and is_main_rank():
        click.echo(summary(result, run))


def names_data(word: str) -> bool:
    """Whether what stands after --resume is the shards folder, which is not named otherwise."""
    source = click.get_current_context().get_parameter_source("data")
    return source in (ParameterSource.DEFAULT, ParameterSource.ENVIRONMENT) and (Path(word) / MANIFEST).exists()


def stopped_at_once(
    data: Path, run: Path | None, options: Sequence[str] | None, number: int = signal.SIGINT
) -> UserError:
    """What to raise after a Ctrl-C, or the signal with that number, that could not be answered with a checkpoint."""
    again = "" if run is None else resume_command(data, run, options)
    if run is not None and any((run / "checkpoints").glob("*.pt")):
        saved = run / "checkpoints"
        return UserError(with_command(f"stopped at once. To resume from the last checkpoint in {saved}", again))
    if run is not None and (run / "recipe.toml").exists():
        before = f"stopped at once, before a checkpoint was saved in {run}"
        return UserError(with_command(f"{before}. To start from the first step", again))
    return StoppedError("stopped before the training had begun; nothing was written.", number)


def check_every_byte(dataset: Dataset, *, quiet: bool) -> None:
    """UserError where any file of the shards folder is not what was written, or a label is none of the classes."""
    from tqdm import tqdm

    from alexnet_fast.tools.cores import num_cores
    from alexnet_fast.tools.sharding.verify import ShardCheck, verify

    total = sum(split.bytes for split in dataset.splits.values())
    with tqdm(desc="checking", total=total, unit="B", unit_scale=True, disable=True if quiet else None) as bar:

        def watch(check: ShardCheck) -> None:
            bar.update(check.num_bytes)

        try:
            problems = verify(dataset, decode=False, num_workers=num_cores(), watch=watch)
        except KeyboardInterrupt as error:
            raise StoppedError("stopped while checking the shards; the training had not begun.") from error
    if problems:
        others = f", and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        raise UserError(
            f"{dataset.folder / problems[0].file}: {problems[0].what}{others}. Nothing was trained. "
            f"For all problems and their remedies:\n{to_copy(command_line('verify', dataset.folder))}"
        )


def summary(result: dict[str, Any], run: Path) -> str:
    """What is left to say at the end."""
    from alexnet_fast.config.recipe import counted_epochs
    from alexnet_fast.inference.evaluation import format_errors
    from alexnet_fast.runs.evaluations import last_evaluations

    lines = [f"{counted(result['steps'], 'step')}, {counted_epochs(result['epochs'])}."]
    if result["images_per_s"] is not None:
        lines.append(f"{result['images_per_s']:,.0f} img/s, {result['data_wait']:.1%} of the time waiting for data.")
    for way, found in last_evaluations(result, result["recipe"]["val_split"], result["final_split"]):
        name = str(way)
        errors = format_errors(found["top1_error"], found["top5_error"])
        lines.append(f"{name[0].upper()}{name[1:]}: {errors} error.")
    lines.append(f"Everything is in {run}. Next:")
    lines.append(to_copy(command_line("report", run), command_line("predict", run, "IMAGE")))
    return "\n".join(lines)
