"""The development kits of ILSVRC-2010 and 2012: what their class ids mean, and the labels they hold.

Ids are the kit's own numbers 1..1000, not the place among the sorted wnids.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.storage.filesystem import is_folder, join, list_folder, read_file


@dataclass(frozen=True)
class Devkit:
    """A development kit, an archive or unpacked."""

    path: str
    files: dict[str, bytes]
    """File name (without folders) -> content, of the files in its data folder."""

    def classes(self) -> dict[int, tuple[str, str]]:
        """Id -> (wnid, words) of the classes that have images, from meta.mat, a Matlab file."""
        if "meta.mat" not in self.files:
            raise UserError(
                f"{self.path}: holds no data/meta.mat, so it is no development kit of ILSVRC. Get it again."
            )
        try:
            from scipy.io import loadmat
        except ImportError as error:
            raise UsageError(
                f"{self.path}: reading its meta.mat needs scipy. Install it: pip install 'alexnet-fast[devkit]'."
            ) from error
        try:
            synsets = loadmat(io.BytesIO(self.files["meta.mat"]), squeeze_me=True)["synsets"]
            key = next(name for name in synsets.dtype.names if name.endswith("_ID"))
            return {
                int(row[key]): (str(row["WNID"]), str(row["words"])) for row in synsets if int(row["num_children"]) == 0
            }
        except Exception as error:  # whatever scipy raises on damaged bytes, and what comes of other tables
            raise UserError(f"{self.path}: its data/meta.mat is damaged ({error}). Get it again.") from error

    def ids(self, name: str) -> npt.NDArray[np.int64] | None:
        """The ids in a ground truth file, a number a line; None where the kit has no such file."""
        return parse_ids(self.files[name], f"{self.path}: its {name}") if name in self.files else None


def parse_ids(content: bytes, what: str) -> npt.NDArray[np.int64]:
    """Whole numbers, one a line; UserError, beginning with `what` they are in, where it holds something else."""
    try:
        return np.array(content.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{what} is damaged ({error}). Get it again.") from error


def find_devkit(root: str, names: dict[str, bool], candidates: tuple[str, ...]) -> Devkit | None:
    """The kit beside the tars, the first of `candidates` (archives, or folders they were unpacked to) that is there."""
    for name in candidates:
        if name in names:
            path = join(root, name)
            return Devkit(path, unpacked(path) if names[name] else packed(path))
    return None


def unpacked(path: str) -> dict[str, bytes]:
    """Files of the kit's data folder."""
    below = join(path, "data")
    if not is_folder(below):
        return {}
    return {name: read_file(join(below, name)) for name, folder in list_folder(below).items() if not folder}


def packed(path: str) -> dict[str, bytes]:
    """Files of the data folder in the archive."""
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(read_file(path))) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if member.isfile() and folder.rpartition("/")[2] == "data":
                    content = archive.extractfile(member)
                    assert content is not None
                    files[name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}). Get it again, or move it away.") from error
    return files
