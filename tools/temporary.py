"""Folders for as long as something takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_fast.tools.errors import UserError


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder whose name begins with alexnet-fast-`name`, removed with all that is in it at the end of the block.

    UserError where no place for temporary files can be written, as on a read-only root without a /tmp.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"alexnet-fast-{name}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"temporary files cannot be written ({error.strerror or error}). Set TMPDIR to a folder that can be."
        ) from error
    with folder as path:
        yield Path(path)
