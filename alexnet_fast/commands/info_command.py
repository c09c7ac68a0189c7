"""`alexnet-fast info`: what is this?"""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import MANIFEST, SHARD_FILES, Dataset
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import as_text, is_url
from alexnet_fast.tools.storage.work_names import WORK


@click.command()
@click.argument("path", required=False)
@click.option("--recipe", "recipe_name", default=None, help="Describe a recipe's network: a name, or a .toml file.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a key of the recipe; repeatable.")
@click.option(
    "--diagram",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=None,
    help="Draw the recipe's network as in the paper's figure 2: .png, .svg or .pdf.",
)
def command(path: str | None, recipe_name: str | None, settings: tuple[str, ...], diagram: Path | None) -> None:
    """Describe PATH: a shards folder (or its URL), a run's folder (also while it runs), a checkpoint.

    Without PATH: this machine, and what `train` would choose on it.  With --recipe: the network layer by layer.
    """
    if recipe_name is None and (settings or diagram is not None):
        raise UsageError(f"{'--diagram' if diagram is not None else '--set'} needs a network: add --recipe 2012")
    if recipe_name is not None and path is not None:
        raise UsageError(f"PATH {path} and --recipe {recipe_name} are two things: give one of them")
    if path == "":
        raise UsageError("PATH is empty. Omit it for a description of this machine")
    if recipe_name is not None:
        click.echo(about_recipe(recipe_name, settings, diagram))
    elif path is not None and is_url(as_text(path)):
        click.echo(describe(Dataset.read(path)))
    else:
        click.echo(about(None if path is None else Path(as_text(path))))


def about_recipe(name: str, settings: tuple[str, ...], diagram: Path | None) -> str:
    """The layers of a recipe's network for 1,000 classes, and what two processes exchange; draws it into `diagram`."""
    from alexnet_fast.config.recipe import load_recipe
    from alexnet_fast.network.diagram import FORMATS, draw_diagram
    from alexnet_fast.network.summary import table

    recipe = load_recipe(name, settings)
    architecture = recipe.architecture(num_classes=1000)
    width = 4 if recipe.precision_to_train_in == "fp32" else 2
    lines = [
        f"Recipe {recipe.name}: {recipe.description}",
        f"Net {recipe.network}, 1,000 classes; MACs are those of one image, forward.",
        "",
        table(architecture, batch_size=recipe.batch_size, bytes_per_value=width),
    ]
    if architecture.num_towers == 2:
        lines += [
            "",
            f"exchanged: sent by each of two processes with one tower each in a training step at batch "
            f"{recipe.batch_size}, in {8 * width} bits.",
        ]
    if diagram is not None:
        suffix = diagram.suffix.lower().lstrip(".")
        if suffix not in FORMATS:
            raise UsageError(f"--diagram {diagram}: the name must end in {', '.join(f'.{kind}' for kind in FORMATS)}")
        try:
            atomic.write_bytes(diagram, draw_diagram(architecture, suffix))
        except OSError as error:
            raise UserError(f"{diagram}: cannot be written ({error.strerror}). Choose another place.") from error
        lines += ["", f"The diagram is in {diagram}."]
    return "\n".join(lines)


def is_of_shards(path: Path) -> bool:
    """Whether a path is a shards folder, a file of one, or what is left of one: `Dataset.load` says which."""
    if path.is_dir():
        return (path / MANIFEST).exists() or (path / WORK).exists() or any(path.glob("*.idx"))
    return path.name == MANIFEST or path.suffix in SHARD_FILES


def about(path: Path | None) -> str:
    """The description of what lies on this machine, by what is there."""
    if path is not None and not path.exists():
        raise UsageError(
            f"{path}: there is no such file or folder. `alexnet-fast shard SOURCE` makes shards, `train` makes runs."
        )
    if path is not None and is_of_shards(path):
        return describe(Dataset.load(path))
    from alexnet_fast.inference.load import load_safetensors
    from alexnet_fast.runs.checkpoint import load_checkpoint
    from alexnet_fast.runs.describe import describe_checkpoint, describe_here, describe_run
    from alexnet_fast.runs.folder import RunFolder

    if path is None:
        return describe_here()
    if path.suffix == ".safetensors":
        return describe_checkpoint(path, load_safetensors(path))
    if not path.is_dir():
        return describe_checkpoint(path, load_checkpoint(path))
    if RunFolder(path).holds_a_run():
        return describe_run(RunFolder(path))
    raise UsageError(
        f"{path}: is neither a shards folder (no {MANIFEST} in it), nor a run's folder (no recipe.toml), "
        "nor a checkpoint"
    )
