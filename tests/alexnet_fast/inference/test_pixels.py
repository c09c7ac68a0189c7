"""`predict` sees the pixels that `eval` sees: of stored images and of the files they were made of."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.inference.pixels import is_stored_image, network_pixels
from alexnet_fast.pipelines import evaluation_loader
from alexnet_fast.tools.dataset import Dataset, ImageOptions
from alexnet_fast.tools.sharding.image import encode


@pytest.fixture(scope="module")
def evaluated(tiny_dataset: Dataset) -> list[np.ndarray]:
    """Pixels of the validation split as `eval` decodes them, in the order of the shards."""
    seen: list[torch.Tensor] = []
    real = evaluation_loader.view_cutter
    with pytest.MonkeyPatch.context() as patch:

        def note(pixels: torch.Tensor, *rest: Any) -> Any:
            seen.append(pixels.clone())
            return real(pixels, *rest)

        patch.setattr(evaluation_loader, "view_cutter", note)
        loader = evaluation_loader.EvaluationLoader(tiny_dataset, batch_size=30, device=torch.device("cpu"))
        for _ in loader:
            pass
    return list(torch.cat(seen).numpy())


def test_stored_images_are_decoded_as_they_are(tiny_dataset: Dataset, evaluated: list[np.ndarray]) -> None:
    place = 0
    for tar in tiny_dataset.tars("val"):
        with tarfile.open(tar) as opened:
            for member in opened:
                if member.name.endswith(".jpg"):
                    file = opened.extractfile(member)
                    assert file is not None
                    content = file.read()
                    assert is_stored_image(content, tiny_dataset.image_options)
                    pixels = network_pixels(content, member.name, tiny_dataset.image_options)
                    assert np.array_equal(pixels, evaluated[place]), member.name
                    place += 1
    assert place == len(evaluated) == 30


def test_raw_files_lose_what_they_lose_in_shards(
    tiny_shards: Path, tiny_dataset: Dataset, evaluated: list[np.ndarray]
) -> None:
    """`predict` left the sharder's JPEG step out: 7 of 1,200 answers were other ones than those of `eval`."""
    known, options = {pixels.tobytes() for pixels in evaluated}, tiny_dataset.image_options
    files = [file for file in (tiny_shards.parent / "images" / "val").rglob("*") if file.is_file()]
    assert len(files) == 30
    for file in files:
        assert network_pixels(file.read_bytes(), file.name, options).tobytes() in known, file
    assert encode(files[0].read_bytes(), files[0].name, options).pixels.tobytes() not in known


@pytest.mark.parametrize("change", ["size", "quality", "sampling", "exif", "gray", "png", "cut"])
def test_what_only_looks_like_a_stored_image_is_made_ready_first(change: str) -> None:
    options, stream = ImageOptions(), io.BytesIO()
    image = Image.effect_noise((128 if change == "size" else 256,) * 2, 80).convert("L" if change == "gray" else "RGB")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(
        stream,
        "PNG" if change == "png" else "JPEG",
        quality=80 if change == "quality" else options.quality,
        subsampling="4:4:4" if change == "sampling" else "4:2:0",
        exif=exif if change == "exif" else b"",
    )
    assert not is_stored_image(stream.getvalue()[: 10 if change == "cut" else None], options)
