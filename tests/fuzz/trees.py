"""Random sources with known truth: layouts × names × formats × damage × tars; `tests.fuzz.sharding` shards them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_fast.tools.sources.imagenet import imagenet_classes, validation_labels

SIZE = 32
"""Side of the stored squares: pixels are compared, and small ones are fast."""

SPLIT_NAMES = {
    "train": ("train", "Train", "training", "training_set", "ILSVRC2012_img_train", "train_blurred", "TrainImages"),
    "val": ("val", "Valid", "validation", "validation_set", "ILSVRC2012_img_val", "val_blurred", "ValImages"),
    "test": ("test", "Test", "testing", "test_set", "ILSVRC2012_img_test", "test_blurred", "TestImages"),
}
WRAPPERS = ("", "", "imagenet/", "data/v1/", "comp/ILSVRC/Data/CLS-LOC/", "images/")
FORMATS = {".jpg": "JPEG", ".JPEG": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}
FOREIGN = ("._{}", ".DS_Store", "Thumbs.db", "@eaDir/{}/SYNOPHOTO_THUMB_M.jpg", ".ipynb_checkpoints/{}")


@dataclass
class Truth:
    """What a tree must become."""

    images: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    """Bytes of an image -> (split, class name)."""
    pixels: dict[bytes, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Bytes of an image -> its center square, SIZE wide."""
    damaged: set[bytes] = field(default_factory=set)
    """Images that must be skipped when they are decoded."""
    unused: int = 0
    """Images and files that may be data, and belong to no split."""
    classes: list[str] | None = None
    """In order; None: sorted names of the images' classes."""
    refused: str = ""
    """Why the source must be refused; empty where it must not be."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `find_source` is given."""


class Maker:
    """Draws one tree from a seed."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.truth = Truth()
        self.files: dict[str, bytes] = {}
        self.count = 0

    def image(self, extension: str = "") -> tuple[bytes, str]:
        """A new image's bytes, and its extension."""
        extension = extension or self.random.choice(list(FORMATS))
        self.count += 1
        state = np.random.default_rng(self.random.getrandbits(40))
        width, height = self.random.choice(((40, 40), (48, 36), (36, 52)))
        small = state.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, FORMATS.get(extension, "JPEG"), quality=95)
        content = stream.getvalue()
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BOX)
        self.truth.pixels[content] = np.asarray(square, dtype=float)
        return content, extension

    def labeled(self, split: str, name: str, extension: str = "") -> tuple[bytes, str]:
        """A new image that must end in a split and a class; now and then a damaged one."""
        content, extension = self.image(extension)
        if self.random.random() < 0.03:
            content = content[: len(content) // 2] if extension != ".bmp" else b"BM" + content[:5]
            content += self.count.to_bytes(4, "big")  # still unlike all others
            self.truth.damaged.add(content)
        self.truth.images[content] = (split, name)
        return content, extension

    def stem(self) -> str:
        number = self.count
        odd = (f"img {number}", f"bild-ü{number}", f"x{number:05d}", f"a.b.{number}", f"({number})", f"{number}")
        return self.random.choice(odd)

    def class_names(self) -> list[str]:
        """Two to five names of one kind."""
        number = self.random.randint(2, 5)
        kinds: list[Callable[[], list[str]]] = [
            lambda: [entry.wnid for entry in self.random.sample(imagenet_classes(), number)],
            lambda: self.random.sample(["cat", "big dog", "Ünder", "猫", "x-1", "a.b", "C++", "owl"], number),
            lambda: [str(n) for n in self.random.sample(range(30), number)],
            lambda: [f"animals/{name}" for name in self.random.sample(["cat", "dog", "owl", "cow", "emu"], number)],
            lambda: self.random.sample(["bullet train", "test tube", "dog", "cat", "val d'or"], number),
        ]
        return self.random.choice(kinds)()

    def splits(self) -> list[str]:
        return self.random.choice((["train"], ["train", "val"], ["train", "test"], ["train", "val", "test"]))

    def noise(self, folder: str) -> None:
        """Foreign files, texts, and things that may be data and belong nowhere."""
        for pattern in self.random.sample(FOREIGN, self.random.randint(0, 2)):
            self.files[f"{folder}{pattern.format('1.jpg')}"] = b"\0\5\x16\7"
        if self.random.random() < 0.3:
            self.files[f"{folder}README.md"] = b"read me"
        for name, content in (("old.zip", b"PK\3\4"), ("more.npz", b"PK\3\4"), ("raw.tfrecord", b"x")):
            if self.random.random() < 0.08:
                self.files[f"{folder}{name}"] = content
                self.truth.unused += 1
        if self.random.random() < 0.1:
            self.files[f"{folder}.hidden/secret.jpg"] = self.image(".jpg")[0]
            self.truth.unused += 1

    def spoil(self) -> None:
        """Now and then, something that must make the whole source refused."""
        choice = self.random.random()
        names = [name for name in self.files if name.endswith(".tar")]
        if choice < 0.02 and "path" not in self.truth.options:
            self.files["half.tar.part"] = b"x"
            self.truth.refused = "a part of a download"
        elif choice < 0.04 and names:
            content = self.files[names[0]].rstrip(b"\0")  # behind the end mark a cut loses nothing
            self.files[names[0]] = content[: len(content) // 3]
            self.truth.refused = "a cut tar"
        elif choice < 0.05 and "path" not in self.truth.options:
            (self.root / "gone").symlink_to("/nowhere/at/all")
            self.truth.refused = "a broken link"

    def write(self) -> Truth:
        for name, content in self.files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return self.truth


def sort_key(names: list[str]) -> list[str]:
    """Class order by the promise: by number where all are numbers, else by name."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def tar_of(files: dict[str, bytes], packed: bool) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 1) if packed else stream.getvalue()


def class_tree(maker: Maker, splits: list[str], names: list[str], split_folder: dict[str, str]) -> dict[str, bytes]:
    """Images in class folders; every class in train, the other splits may lack some."""
    files = {}
    inner = maker.random.choice(("", "", "images/"))
    for split in splits:
        for name in names if split == "train" else maker.random.sample(names, maker.random.randint(1, len(names))):
            for _ in range(maker.random.randint(1, 3)):
                content, extension = maker.labeled(split, name)
                files[f"{split_folder[split]}{name}/{inner}{maker.stem()}_{maker.count}{extension}"] = content
    return files


def folder_of_split(maker: Maker, splits: list[str]) -> dict[str, str]:
    wrapper, style = maker.random.choice(WRAPPERS), maker.random.randrange(len(SPLIT_NAMES["train"]))
    if splits == ["train"] and maker.random.random() < 0.5:
        return {"train": ""}
    return {split: f"{wrapper}{SPLIT_NAMES[split][style]}/" for split in splits}


def folders(maker: Maker) -> None:
    splits = maker.splits()
    places = folder_of_split(maker, splits)
    maker.files |= class_tree(maker, splits, maker.class_names(), places)
    maker.noise(places["train"])
    if maker.random.random() < 0.15:
        maker.files[f"{places['train']}loose.jpg"] = maker.image(".jpg")[0]
        maker.truth.unused += 1


def classes_with_splits(maker: Maker) -> None:
    """cat/train, cat/val, dog/train, …"""
    names = [name for name in maker.class_names() if "/" not in name] or ["cat", "dog"]
    names = names if len(names) > 1 else ["cat", "dog"]
    for name in names:
        for split in ("train", "val"):
            content, extension = maker.labeled(split, name)
            maker.files[f"{name}/{split}/{maker.count}{extension}"] = content


def class_tars(maker: Maker) -> None:
    splits, names = maker.splits(), [name for name in maker.class_names() if "/" not in name]
    names = names if len(names) > 1 else ["cat", "dog"]
    places = folder_of_split(maker, splits)
    tree = class_tree(maker, splits, names, places)
    tars: dict[str, dict[str, bytes]] = {}
    for path, content in tree.items():
        split = next(split for split in reversed(splits) if path.startswith(places[split]))
        name, _, rest = path[len(places[split]) :].partition("/")
        tars.setdefault(f"{places[split]}{name}", {})[rest] = content
    for tar, members in tars.items():
        packed = maker.random.random() < 0.2
        maker.files[f"{tar}.tar{'.gz' if packed else ''}"] = tar_of(members, packed)
    maker.noise(places["train"])


def tree_tar(maker: Maker) -> None:
    """One tar of the whole tree, or one for each split."""
    splits, names = maker.splits(), maker.class_names()
    places = folder_of_split(maker, splits)
    tree = class_tree(maker, splits, names, places)
    packed = maker.random.random() < 0.3
    ending = ".tar.gz" if packed else ".tar"
    if places["train"] and maker.random.random() < 0.5:
        for split in splits:
            members = {path[len(places[split]) :]: c for path, c in tree.items() if path.startswith(places[split])}
            maker.files[f"{places[split].rstrip('/')}{ending}"] = tar_of(members, packed)
        return
    maker.files[f"everything{ending}"] = tar_of(tree, packed)
    maker.truth.options["path"] = f"everything{ending}"


def webdataset(maker: Maker) -> None:
    splits = maker.splits()
    numeric = maker.random.random() < 0.6
    names = [str(n) for n in range(maker.random.randint(2, 12))] if numeric else ["n01440764", "zebra", "big dog"]
    write = label_writer(maker, numeric)
    for split in splits:
        samples: list[tuple[str, bytes]] = []
        for name in [*names, *(maker.random.choice(names) for _ in range(4))]:
            content, extension = maker.labeled(split, name)
            key = f"{maker.random.choice(('', 'd/', './e/f/'))}s{maker.count:05d}"
            samples += [(f"{key}{extension}", content), *((f"{key}.{end}", text) for end, text in write(name))]
            if maker.random.random() < 0.05:
                samples.append((f"{key}.seg.png", maker.image(".png")[0]))
                maker.truth.unused += 1
            if maker.random.random() < 0.05:
                samples.append((f"._{key.rpartition('/')[2]}.jpg", b"\0\5"))
        if numeric and maker.random.random() < 0.2:
            content, extension = maker.image()
            unlabeled = maker.random.choice((write("-1"), [("cls", b"-1")]))
            samples += [(f"u{maker.count}{extension}", content)]
            samples += [(f"u{maker.count}.{end}", text) for end, text in unlabeled]
            maker.truth.unused += 1
        order = maker.random.choice(("as made", "by extension", "shuffled"))
        if order == "by extension":
            samples.sort(key=lambda sample: sample[0].rpartition(".")[2])
        elif order == "shuffled":
            maker.random.shuffle(samples)
        packed = maker.random.random() < 0.2
        place = maker.random.choice((f"x-{split}-0000", f"{split}/0000", f"deep/{split}/a"))
        maker.files[f"{place}.tar{'.gz' if packed else ''}"] = tar_of(dict(samples), packed)
    maker.noise("")


def label_writer(maker: Maker, numeric: bool) -> Callable[[str], list[tuple[str, bytes]]]:
    """How a source writes its labels: name -> (component, content) of each label member."""
    if not numeric:
        return maker.random.choice(
            (
                lambda name: [("cls", name.encode())],
                lambda name: [("json", json.dumps({"class_name": name, "url": "x"}).encode())],
                lambda name: [
                    ("json", json.dumps({"label": name}).encode()),
                    ("txt", b"a caption of some length, yes"),
                ],
            )
        )
    return maker.random.choice(
        (
            lambda name: [("cls", name.encode())],
            lambda name: [("cls", f"{name}\n".encode()), ("json", json.dumps({"label": int(name)}).encode())],
            lambda name: [("json", json.dumps({"label": float(name)}).encode())],
            lambda name: [("json", json.dumps({"label": [int(name)]}).encode())],
            lambda name: [("cls.txt", f"{int(name):05d}".encode())],
            lambda name: [("txt", name.encode())],
        )
    )


def table_of_labels(maker: Maker) -> None:
    """Flat folders with a CSV, and some images that it does not have."""
    names, rows = maker.class_names(), []
    for split in ("train", "val"):
        for name in names * 2:
            content, extension = maker.labeled(split, name.replace("/", "-"))
            maker.files[f"{split}/{maker.count}{extension}"] = content
            rows.append((f"{split}/{maker.count}{extension}", name.replace("/", "-")))
    if all(name.isdecimal() for name in names):
        maker.truth.classes = [str(number) for number in range(max(map(int, names)) + 1)]
    if maker.random.random() < 0.3:
        maker.files["train/extra.jpg"] = maker.image(".jpg")[0]
        maker.truth.unused += 1
    stream = io.StringIO()
    csv.writer(stream).writerows([("file_name", "label"), *rows])
    maker.files["labels.csv"] = stream.getvalue().encode()
    maker.truth.options["labels"] = ["labels.csv"]


def imagenet_validation(maker: Maker) -> None:
    """Class folders of train with the challenge's validation images: flat, half sorted, or named by their wnid."""
    numbers = maker.random.sample(range(1, 50_001), 8)
    wnid_of = {number: imagenet_classes()[validation_labels()[number - 1]].wnid for number in numbers}
    places = (("train/", "val/"), ("ILSVRC2012_img_train/", "ILSVRC2012_img_val/"), ("train/", "x/"))
    train, val = maker.random.choice(places)
    kept = maker.random.sample(numbers, 6)
    for number in kept:
        content, extension = maker.labeled("train", wnid_of[number], ".JPEG")
        maker.files[f"{train}{wnid_of[number]}/{wnid_of[number]}_{maker.count}{extension}"] = content
    style = maker.random.choice(("flat", "sorted", "half", "named"))
    known = {wnid_of[number] for number in kept}
    for place, number in enumerate(numbers):
        name = f"ILSVRC2012_val_{number:08d}{f'_{wnid_of[number]}' if style == 'named' else ''}"
        sorted_in = style == "sorted" or (style == "half" and place % 2)
        if wnid_of[number] not in known and sorted_in:
            continue
        extension = maker.random.choice((".JPEG", ".jpg", ".png"))
        if wnid_of[number] in known:
            content = maker.labeled("val", wnid_of[number], extension)[0]
        else:
            content = maker.image(extension)[0]
            maker.truth.unused += 1
        maker.files[f"{val}{f'{wnid_of[number]}/' if sorted_in else ''}{name}{extension}"] = content
    if len(known) < 2:
        maker.truth.refused = "one class"


def imagenet_subset(maker: Maker) -> None:
    """As Imagenette: train and val folders, each with images of ImageNet's train split and of its validation split."""
    wnids = [entry.wnid for entry in maker.random.sample(imagenet_classes(), maker.random.randint(2, 4))]
    places = folder_of_split(maker, ["train", "val"])
    for wnid in wnids:
        index = next(entry.index for entry in imagenet_classes() if entry.wnid == wnid)
        numbers = [number for number, label in enumerate(validation_labels(), 1) if label == index]
        held_out = iter(maker.random.sample(numbers, 4))
        for split in ("train", "val"):
            for name in [f"{wnid}_{place}" for place in range(3)] + [f"ILSVRC2012_val_{next(held_out):08d}"]:
                content, extension = maker.labeled(split, wnid, ".JPEG")
                maker.files[f"{places[split]}{wnid}/{name}{extension}"] = content
    fault = maker.random.random()
    kept = [name for name in maker.files if "_val_" in name]
    train, val = (next(name for name in kept if name.startswith(places[split])) for split in ("train", "val"))
    if fault < 0.15:
        copy = val.rpartition("/")[0] + "/" + train.rpartition("/")[2]
        maker.files[copy] = maker.labeled("val", wnids[0], ".JPEG")[0]
        maker.truth.refused = "an image in train and in val"
    elif fault < 0.3:
        for name in [name for name in maker.files if name.startswith(f"{places['train']}{wnids[0]}/{wnids[0]}_")]:
            del maker.truth.images[maker.files.pop(name)]
        maker.truth.refused = "a class of validation images in train"


def ambiguous(maker: Maker) -> None:
    """Layouts with two readings."""
    one, two = maker.random.choice(
        (
            (("cat", "dog"), ("test",)),
            (("foo/cat", "foo/dog"), ("bar/cat", "bar/dog")),
            (("cat", "dog"), ("val/cat", "val/dog")),
            (("car", "plane"), ("train",)),
            (("train/cat", "train/dog"), ("dev/cat", "eval/cat")),
            (("train/animals/cat", "train/animals/dog"), ("train/animals",)),
        )
    )
    for folder in (*one, *two):
        content, extension = maker.image()
        maker.files[f"{folder}/{maker.count}{extension}"] = content
    maker.truth.refused = "two readings"


LAYOUTS = (folders, folders, classes_with_splits, class_tars, tree_tar, webdataset, webdataset, table_of_labels,
           imagenet_validation, imagenet_subset, ambiguous)  # fmt: skip
