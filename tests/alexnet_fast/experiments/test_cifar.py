"""CIFAR-10 in every form it is published in, and damaged ones."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.experiments import cifar
from alexnet_fast.experiments.cifar import read_cifar
from alexnet_fast.tools.errors import UsageError, UserError

COUNT = 12
"""Images of a made-up batch."""
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "BATCH_IMAGES", COUNT)


def made_up() -> list[tuple[str, np.ndarray, list[int]]]:
    """(batch's name, (COUNT, 3072) color planes, labels)."""
    random = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return [
        (name, random.integers(0, 256, (COUNT, 3072), np.uint8), random.integers(0, 10, COUNT).tolist())
        for name in names
    ]


def python_folder(folder: Path) -> Path:
    """As cifar-10-batches-py unpacks: pickles of Python 2, whose keys are bytes."""
    folder.mkdir()
    for name, rows, labels in made_up():
        (folder / name).write_bytes(pickle.dumps({b"data": rows, b"labels": labels, b"batch_label": b"x"}, protocol=2))
    meta = {b"label_names": [name.encode() for name in NAMES]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def binary_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, rows, labels in made_up():
        records = np.concatenate([np.array(labels, np.uint8)[:, None], rows], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def packed(folder: Path, mode: str) -> Path:
    file = folder.with_name(f"{folder.name}.tar.{mode}")
    with tarfile.open(file, f"w:{mode}") as archive:  # type: ignore[call-overload]
        archive.add(folder, folder.name)
    return file


@pytest.mark.parametrize("make", [python_folder, binary_folder])
@pytest.mark.parametrize("mode", [None, "gz", "xz"])
def test_batches_are_read_from_folders_and_archives(
    make: Callable[[Path], Path], mode: str | None, tmp_path: Path
) -> None:
    folder = make(tmp_path / "batches")
    data = read_cifar(folder if mode is None else packed(folder, mode))
    batches = made_up()
    assert data.classes == tuple(NAMES)
    assert data.train_images.shape == (5 * COUNT, 32, 32, 3) and data.test_images.shape == (COUNT, 32, 32, 3)
    assert data.train_labels.tolist() == [label for _, _, labels in batches[:5] for label in labels]
    # The third record's pixel in row 4, column 7: 1,024 reds come first, then the greens, then the blues.
    rows = batches[1][1]
    assert data.train_images[COUNT + 2, 4, 7].tolist() == [
        int(rows[2, plane * 1024 + 4 * 32 + 7]) for plane in range(3)
    ]
    assert data.test_labels.tolist() == batches[5][2]


def test_class_folders_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for shade, name in ((10, "b"), (200, "a")):
            place = tmp_path / "set" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (shade, number, 0)).save(place / f"{number}.png")
    for source in (tmp_path / "set", packed(tmp_path / "set", "gz")):
        data = read_cifar(source)
        assert data.classes == ("a", "b") and data.kind == "class folders"
        assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.train_images[:, 0, 0, 0].tolist() == [200] * 3 + [10] * 3
        assert len(data.test_labels) == 2


def test_an_archive_cut_short_is_refused(tmp_path: Path) -> None:
    file = packed(python_folder(tmp_path / "batches"), "gz")
    whole = file.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 9):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut short|is missing|cannot be read"):
            read_cifar(file)


@pytest.mark.parametrize("place", ["between two files", "in a header", "in a file"])
def test_class_folders_in_a_tar_cut_short_anywhere_are_refused(place: str, tmp_path: Path) -> None:
    """Every class is there; only images are missing."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (number, 9, 9)).save(tmp_path / split / name / f"{number}.png")
    file = tmp_path / "cifar.tar"
    with tarfile.open(file, "w") as archive:
        for image in sorted(tmp_path.rglob("*.png"), key=lambda path: path.name):
            archive.add(image, image.relative_to(tmp_path).as_posix())
        last = archive.getmembers()[-1]
    assert len(read_cifar(file).train_labels) == 6
    cut = {"between two files": last.offset, "in a header": last.offset + 100, "in a file": last.offset_data + 9}[place]
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="cut short"):
        read_cifar(file)


def test_a_batch_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    folder = binary_folder(tmp_path / "batches")
    batch = folder / "data_batch_3.bin"
    content = batch.read_bytes()
    batch.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"data_batch_3\.bin.*cut short"):
        read_cifar(folder)
    batch.write_bytes(content[:-3073])
    with pytest.raises(UserError, match=r"data_batch_3\.bin: has 11 images"):
        read_cifar(folder)
    batch.unlink()
    with pytest.raises(UserError, match=r"'data_batch_3\.bin' is missing"):
        read_cifar(folder)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("code of a stranger runs",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = python_folder(tmp_path / "batches")
    (folder / "data_batch_2").write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(UserError, match="which no batch needs"):
        read_cifar(folder)
    assert capsys.readouterr().out == ""


def test_what_is_not_cifar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        read_cifar(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no CIFAR-10"):
        read_cifar(tmp_path)
    (tmp_path / "x.tar.gz").write_text("text")
    with pytest.raises(UserError, match="no tar archive"):
        read_cifar(tmp_path / "x.tar.gz")
    stream = io.BytesIO()
    Image.new("RGB", (33, 32)).save(stream, "PNG")
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            (tmp_path / "set" / split / name / "1.png").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match=r"has 33×32 pixels"):
        read_cifar(tmp_path / "set")
