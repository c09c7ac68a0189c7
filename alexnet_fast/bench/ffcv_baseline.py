"""The FFCV process of `bench loader --baselines`: run by a Python that has FFCV, started by
`baseline_loaders.open_ffcv`.

    python ffcv_baseline.py FOLDER MEAN BATCH_SIZE THREADS

Writes FOLDER/jpegs.npz as two .beton files, answers the names of its variants, then [variant, untimed batches, timed
batches] on each line of stdin with [seconds, CPU seconds] that the latter took.  Nothing of ours is imported here.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import ffcv.fields.rgb_image
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter

SIZE, CROP = 256, 224
VARIANTS = {
    "FFCV JPEG: crop, mirror, uint8": ("jpg", False),
    "FFCV JPEG, mean color": ("jpg", True),
    "FFCV raw, mean color": ("raw", True),
}


class Image(np.ndarray):
    """Pixels that know the JPEG they came from."""

    jpeg: Any


class Images:
    """What FFCV's writer asks for."""

    def __init__(self, folder: Path) -> None:
        stored = np.load(folder / "jpegs.npz")
        self.jpegs = np.split(stored["content"], np.cumsum(stored["lengths"])[:-1])

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, place: int) -> tuple[Image, int]:
        jpeg = self.jpegs[place]
        image = cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).view(Image)
        image.jpeg = jpeg
        return image, 0


def write(folder: Path, threads: int) -> None:
    """jpg.beton and raw.beton."""
    # FFCV would compress the pixels again; the comparison is on the shards' own JPEGs.
    ffcv.fields.rgb_image.encode_jpeg = lambda image, quality: np.array(image.jpeg)
    for mode in ("jpg", "raw"):
        fields = {"image": RGBImageField(write_mode=mode), "label": IntField()}
        DatasetWriter(str(folder / f"{mode}.beton"), fields, num_workers=threads).from_indexed_dataset(Images(folder))


def loader(folder: Path, mode: str, mean: list[float] | None, batch_size: int, threads: int) -> Any:
    """Random 224 crops, mirrored or not; with a mean, its color subtracted and divided by 1.1, as float32."""
    area = (CROP / SIZE) ** 2
    image = [RandomResizedCropRGBImageDecoder((CROP, CROP), scale=(area, area), ratio=(1, 1)), RandomHorizontalFlip()]
    if mean is not None:
        image.append(NormalizeImage(np.array(mean), np.full(3, 1.1), np.float32))
    return Loader(
        str(folder / f"{mode}.beton"), batch_size=batch_size, num_workers=threads, order=OrderOption.RANDOM,
        os_cache=True, drop_last=True,
        pipelines={"image": [*image, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor()]},
    )  # fmt: skip


def turn(batches: Any, lead: int, count: int) -> list[float]:
    """Seconds and CPU seconds of `count` batches of a new epoch, after `lead` untimed ones."""
    iterator = iter(batches)
    for _ in itertools.islice(iterator, lead):
        pass
    start, cpu_start = time.perf_counter(), time.process_time()
    num_batches = sum(1 for _ in itertools.islice(iterator, count))
    took = [time.perf_counter() - start, time.process_time() - cpu_start]
    assert num_batches == count
    for _ in iterator:  # an epoch left early keeps its threads
        pass
    return took


def answer(content: object) -> None:
    print("answer", content, flush=True)


def main() -> None:
    folder, mean, batch_size, threads = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    write(folder, threads)
    loaders = {
        name: loader(folder, mode, mean if normalize else None, batch_size, threads)
        for name, (mode, normalize) in VARIANTS.items()
    }
    for batches in loaders.values():
        turn(batches, 1, 1)  # numba compiles
    answer(json.dumps(list(loaders)))
    for line in sys.stdin:
        name, lead, count = json.loads(line)
        answer(json.dumps(turn(loaders[name], lead, count)))


if __name__ == "__main__":
    main()
