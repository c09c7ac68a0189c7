"""Tiny sources laid out as the real ones are, made on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from alexnet_fast.tools.sources.imagenet import imagenet_classes, validation_labels

WNIDS = ("n01440764", "n02012849", "n03126707")
"""Tench, and the two cranes."""


def jpeg(seed: int, width: int = 40, height: int = 30) -> bytes:
    """An image of its own for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def tar_bytes(files: Mapping[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def tar_member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """A member of any kind: links, pipes, and names that come twice."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, target
    return member, content


def tar_of(members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of `tar_member`s in order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def gzipped_tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def meta_mat(key: str, classes: Mapping[int, tuple[str, str]]) -> bytes:
    """A devkit's meta.mat: the classes, and one synset above them that has no images."""
    kind = np.dtype([(key, "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O"), ("children", "O")])
    rows: list[tuple[object, ...]] = [(number, wnid, words, 0, []) for number, (wnid, words) in classes.items()]
    rows.append((1001, "n00001740", "entity", 1, [1]))
    stream = io.BytesIO()
    savemat(stream, {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})
    return stream.getvalue()


def devkit_2012(labels: list[int] | None = None) -> bytes:
    ids = [imagenet_classes()[label].ilsvrc2012_id for label in labels or validation_labels()]
    classes = {entry.ilsvrc2012_id: (entry.wnid, entry.lemmas) for entry in imagenet_classes()}
    return gzipped_tar(
        {
            "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat("ILSVRC2012_ID", classes),
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "\n".join(map(str, ids)).encode(),
        }
    )


def train_tar(per_class: int = 3) -> bytes:
    """ILSVRC2012_img_train.tar with three classes."""
    return tar_bytes(
        {
            f"{wnid}.tar": tar_bytes({f"{wnid}_{10 + i}.JPEG": jpeg(100 * number + i) for i in range(per_class)})
            for number, wnid in enumerate(WNIDS)
        }
    )


def val_tar(count: int = 5) -> bytes:
    return tar_bytes({f"ILSVRC2012_val_{1 + i:08d}.JPEG": jpeg(1000 + i) for i in range(count)})


def ilsvrc2012(root: Path) -> Path:
    return write_files(root, {"ILSVRC2012_img_train.tar": train_tar(), "ILSVRC2012_img_val.tar": val_tar()})
