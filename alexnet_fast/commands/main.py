"""`alexnet-fast`: the verbs, each loaded only when it is called, so that `shard` needs neither torch nor DALI."""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any, NoReturn

import click

from alexnet_fast.tools.caches import place_caches
from alexnet_fast.tools.errors import StoppedError, UserError
from alexnet_fast.tools.huge_pages import ask_for_huge_pages
from alexnet_fast.tools.messages import did_you_mean
from alexnet_fast.tools.openmp import spin_briefly
from alexnet_fast.tools.streams import drop_what_waits, explained_output, fill_closed
from alexnet_fast.tools.version import __version__

VERBS = {
    "shard": "Repack a folder of images into 256 px WebDataset shards.",
    "verify": "Check that every byte of a shards folder is still what its manifest says.",
    "info": "Describe a shards folder, a run, a checkpoint, or this machine.",
    "preview": "Draw what is in the shards and what the network will see.",
    "train": "Train AlexNet on a shards folder.",
    "eval": "Measure a checkpoint's error, with one view or ten.",
    "predict": "Name what is in images.",
    "features": "Write the features of every image as a .npy array.",
    "report": "Show a run as one HTML page.",
    "compare": "Show several runs side by side.",
    "experiment": "Repeat the paper's experiments.",
    "check": "Prove that this installation works on this machine.",
    "bench": "Measure img/s: loader, model, training.",
    "export": "Write a checkpoint as .safetensors or .onnx.",
    "recipes": "List the recipes, and where their numbers come from.",
    "demo": "Make a small data set, train on it, show the result.",
}
"""Verb -> its line in `--help`.  The verb's command is `command` in `alexnet_fast.commands.<verb>_command`."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when `--help` lists them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"alexnet_fast.commands.{name}_command")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, context: click.Context) -> Any:
        """Ctrl-C in a command that has no more to say of it, or while its modules are imported, which takes seconds."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise StoppedError("stopped; nothing is left half-written.") from error

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name not in VERBS and not name.startswith("-"):
            context.fail(f"there is no command {name!r}; {did_you_mean(name, VERBS)}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alexnet-fast")
def group() -> None:
    """AlexNet as it was in 2012, and an ImageNet pipeline that keeps up with it.

    Two commands to a trained network: `alexnet-fast shard /path/imagenet`, then `alexnet-fast train`.
    Exit codes: 0 done, 1 failed, 2 wrong use or not possible on this machine, 3 done but images were skipped or
    bytes do not match, 128 + signal stopped by one (130 after Ctrl-C).
    """


EXPLAINED = (
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSPC,
    errno.ENOTDIR, errno.EROFS,
)  # fmt: skip
"""Errors of a path whose message from the system is sufficient wherever they occur; all others are bugs."""


def main(arguments: list[str] | None = None) -> Any:
    """Run one verb; a `UserError` becomes its message on stderr and its exit code."""
    spin_briefly()
    ask_for_huge_pages()
    try:
        fill_closed()
        place_caches()
        with explained_output():
            return group.main(args=arguments, prog_name="alexnet-fast")
    except UserError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in EXPLAINED or error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}", UserError.exit_code)


def fail(message: str, exit_code: int) -> NoReturn:
    """Print it on stderr, if that is open, and exit."""
    try:
        click.echo(f"alexnet-fast: {message}", err=True)
    except OSError:
        drop_what_waits(sys.stderr)
    sys.exit(exit_code)
