"""`alexnet-fast info`: what is this?"""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_fast.tools.dataset import MANIFEST, SHARD_FILES, Dataset
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.storage.filesystem import as_text, is_url
from alexnet_fast.tools.storage.output import WORK


@click.command()
@click.argument("path", required=False)
def command(path: str | None) -> None:
    """Describe PATH: a shards folder (or its URL), a run's folder (also while it runs), a checkpoint.

    Without PATH: this machine, and what `train` would choose on it.
    """
    if path == "":
        raise UsageError("PATH is empty. Leave the word away to hear about this machine")
    if path is not None and is_url(as_text(path)):
        click.echo(describe(Dataset.read(path)))
    else:
        click.echo(about(None if path is None else Path(as_text(path))))


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
