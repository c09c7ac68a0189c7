"""`alexnet-fast info`: what is this?"""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_fast.tools.dataset import MANIFEST, Dataset
from alexnet_fast.tools.describe import describe
from alexnet_fast.tools.errors import UsageError


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
def command(path: Path | None) -> None:
    """Describe PATH: a shards folder, a run's folder (also while it runs), a checkpoint.

    Without PATH: this machine, and what `train` would choose on it.
    """
    click.echo(about(path))


def about(path: Path | None) -> str:
    """The description, by what is there."""
    if path is not None and not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    if path is not None and ((path / MANIFEST).exists() or path.name == MANIFEST):
        return describe(Dataset.load(path))
    from alexnet_fast.checkpoint import load_checkpoint
    from alexnet_fast.run_folder import RunFolder
    from alexnet_fast.run_info import describe_checkpoint, describe_here, describe_run
    from alexnet_fast.trained import load_safetensors

    if path is None:
        return describe_here()
    if path.suffix == ".safetensors":
        return describe_checkpoint(path, load_safetensors(path))
    if path.is_file():
        return describe_checkpoint(path, load_checkpoint(path))
    if RunFolder(path).recipe.exists():
        return describe_run(RunFolder(path))
    raise UsageError(
        f"{path}: is neither a shards folder (no {MANIFEST} in it), nor a run's folder (no recipe.toml), "
        "nor a checkpoint"
    )
