"""CIFAR-10 as published (python or binary batches), as class folders, and as a tar of either."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted, few

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

SIZE = 32
BATCH_IMAGES = 10_000
"""Images in each of the published batches, of which there are five for training and one for testing."""
BATCH = re.compile(r"(?:data_batch_([1-5])|test_batch)(\.bin)?")
WHERE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SAFE = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip
"""All that a published batch needs to be unpickled; anything else could run code."""


@dataclass(frozen=True)
class Cifar:
    """The whole data set in memory."""

    train_images: Pixels
    """(N, 32, 32, 3)"""
    train_labels: Labels
    """(N,)"""
    test_images: Pixels
    test_labels: Labels
    classes: tuple[str, ...]
    kind: str
    """"python batches", "binary batches" or "class folders"."""

    @property
    def fingerprint(self) -> str:
        """Sha256 over pixels, labels and class names."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_cifar(path: Path) -> Cifar:
    """Read CIFAR-10 from a folder or a tar (also .gz, .xz, .bz2).

    Raises UsageError where nothing of the kind is there; UserError where an archive or a batch is cut short.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder. Get cifar-10-python.tar.gz from {WHERE}.")
    batches: dict[str, bytes] = {}
    folders: dict[str, dict[str, list[tuple[str, bytes]]]] = {"train": {}, "test": {}}
    for name, content in files_of(path):
        parts = PurePosixPath(name).parts
        if BATCH.fullmatch(parts[-1]) or parts[-1] in ("batches.meta", "batches.meta.txt"):
            batches[parts[-1]] = content
        elif len(parts) >= 3 and parts[-3] in folders and parts[-1].lower().endswith((".png", ".jpg", ".jpeg")):
            folders[parts[-3]].setdefault(parts[-2], []).append((name, content))
    if any(BATCH.fullmatch(name) for name in batches):
        return from_batches(batches, path)
    if folders["train"] or folders["test"]:
        return from_folders(folders, path)
    raise UsageError(
        f"{path}: holds no CIFAR-10. Give cifar-10-python.tar.gz or cifar-10-binary.tar.gz from {WHERE}, the folder "
        "that one of them unpacks to, or a folder with train/<class>/ and test/<class>/ of 32×32 images."
    )


def files_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file that may belong to the data set."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield file.relative_to(path.parent).as_posix(), file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and (opened := archive.extractfile(member)) is not None:
                    content = opened.read()
                    if len(content) != member.size:
                        raise EOFError(f"{member.name} ends too early")
                    yield member.name, content
            assert archive.fileobj is not None
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError("its end is missing")  # tarfile takes a header that is cut short for the end
            while archive.fileobj.read(1 << 20):
                pass  # to the compressed stream's end, where its checksum is
    except (tarfile.TarError, EOFError, LZMAError, zlib.error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"{path}: is no tar archive, or it was cut short or altered ({reason}). Download it again from {WHERE}."
        ) from error


def from_batches(files: dict[str, bytes], path: Path) -> Cifar:
    """From the five training batches and the test batch."""
    binary = any(name.endswith(".bin") for name in files)
    end = ".bin" if binary else ""
    names = [*(f"data_batch_{number}{end}" for number in range(1, 6)), f"test_batch{end}"]
    if lacking := [name for name in names if name not in files]:
        raise UserError(f"{path}: {few(lacking)} is missing. Unpack the archive again, or download it from {WHERE}.")
    read = binary_batch if binary else python_batch
    parts = [read(files[name], f"{path}, {name}") for name in names]
    for name, (images, labels) in zip(names, parts, strict=True):
        if len(images) != BATCH_IMAGES or len(labels) != BATCH_IMAGES or not ((labels >= 0) & (labels < 10)).all():
            raise UserError(
                f"{path}, {name}: has {counted(len(images), 'image')} and {counted(len(labels), 'label')}; there must "
                f"be {BATCH_IMAGES:,} of each, with labels 0 to 9. Download the archive again from {WHERE}."
            )
    return Cifar(
        np.concatenate([images for images, _ in parts[:5]]),
        np.concatenate([labels for _, labels in parts[:5]]),
        *parts[5],
        class_names(files, path),
        "binary batches" if binary else "python batches",
    )


def python_batch(content: bytes, where: str) -> tuple[Pixels, Labels]:
    """A pickled batch, read without running code of its own."""
    batch = unpickled(content, where)
    try:
        rows = np.asarray(batch[b"data"], dtype=np.uint8)
        return pixels_of(rows), np.asarray(batch[b"labels"], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: is no CIFAR-10 batch ({error}). Download the archive again from {WHERE}.") from error


def binary_batch(content: bytes, where: str) -> tuple[Pixels, Labels]:
    """A batch of records of a label's byte and 3,072 bytes of pixels."""
    record = 1 + 3 * SIZE * SIZE
    if len(content) % record:
        raise UserError(
            f"{where}: has {len(content):,} bytes, no whole number of records of {record:,}: it was cut short. "
            f"Download the archive again from {WHERE}."
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return pixels_of(rows[:, 1:]), rows[:, 0].astype(np.int64)


def pixels_of(rows: Pixels) -> Pixels:
    """(N, 3072), color planes one after the other -> (N, 32, 32, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1))


def class_names(files: dict[str, bytes], path: Path) -> tuple[str, ...]:
    """As the archive says, else the numbers."""
    if "batches.meta.txt" in files:
        names = files["batches.meta.txt"].decode(errors="replace").split()
    elif "batches.meta" in files:
        meta = unpickled(files["batches.meta"], f"{path}, batches.meta")
        names = [bytes(name).decode(errors="replace") for name in meta.get(b"label_names", [])]
    else:
        names = []
    return tuple(names) if len(names) == 10 else tuple(str(number) for number in range(10))


class SafeUnpickler(pickle.Unpickler):
    """Builds arrays and plain values, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return super().find_class(module, name)


def unpickled(content: bytes, where: str) -> dict[bytes, Any]:
    """The dictionary in a pickle of Python 2; UserError where it is cut short, altered, or would run code."""
    try:
        value = SafeUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged bytes make pickle raise whatever they spell
        raise UserError(
            f"{where}: cannot be read ({error}): it was cut short or altered. Download the archive again from {WHERE}."
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: is no CIFAR-10 batch. Download the archive again from {WHERE}.")
    return value


def from_folders(folders: dict[str, dict[str, list[tuple[str, bytes]]]], path: Path) -> Cifar:
    """From train/<class>/ and test/<class>/, classes in the order of their names."""
    classes = sorted(folders["train"])
    if classes != sorted(folders["test"]) or len(classes) < 2:
        raise UserError(
            f"{path}: train has {counted(len(classes), 'class', 'classes')} and test "
            f"{counted(len(folders['test']), 'class', 'classes')}; both must have the same two or more. "
            "If the archive was cut short, get it again."
        )
    train, test = (split_of(folders[split], classes, path) for split in ("train", "test"))
    return Cifar(*train, *test, tuple(classes), "class folders")


def split_of(files: dict[str, list[tuple[str, bytes]]], classes: list[str], path: Path) -> tuple[Pixels, Labels]:
    """A split's images, class by class, and their labels."""
    images = [decoded(*file, path) for name in classes for file in sorted(files[name])]
    labels = [label for label, name in enumerate(classes) for _ in files[name]]
    return np.stack(images), np.asarray(labels, dtype=np.int64)


def decoded(name: str, content: bytes, path: Path) -> Pixels:
    """(32, 32, 3); UserError where it is no image of that size."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}, {name}: cannot be decoded ({error}). Get it again, or remove it.") from error
    if pixels.shape != (SIZE, SIZE, 3):
        raise UserError(f"{path}, {name}: has {pixels.shape[1]}×{pixels.shape[0]} pixels, CIFAR-10 has 32×32.")
    return pixels
