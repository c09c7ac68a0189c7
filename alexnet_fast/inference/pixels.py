"""The pixels that a network sees of a file: those of the same file in shards, which training and evaluation read."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.sharding.image import encode

Pixels = npt.NDArray[np.uint8]


def network_pixels(content: bytes, name: str, options: ImageOptions) -> Pixels:
    """(size, size, 3) uint8 RGB of a file's bytes, equal to what `eval` decodes on a CPU of the file in shards.

    A file as the sharder stores them is decoded; any other is made as `shard` makes it, with the losses of its JPEG,
    and decoded.  `name`: its extension decides what it is read as.  Raises BadImageError with the reason.
    """
    stored = content if is_stored_image(content, options) else encode(content, name, options).jpeg
    with Image.open(io.BytesIO(stored)) as image:
        return np.asarray(image)


def is_stored_image(content: bytes, options: ImageOptions) -> bool:
    """Whether a file is such as the sharder writes with these options: its size, quality and sampling, no EXIF."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.format == "JPEG" and form_of(image) == stored_form(options)
    except Exception:  # whatever a broken file leads Pillow's decoders to: `encode` gives the reason
        return False


def form_of(image: Any) -> tuple[object, ...]:
    tables = {number: tuple(table) for number, table in image.quantization.items()}
    return image.size, image.mode, tables, JpegImagePlugin.get_sampling(image), sorted(image.info)


@cache
def stored_form(options: ImageOptions) -> tuple[object, ...]:
    """The form of everything that the sharder writes with these options."""
    stream = io.BytesIO()
    Image.new("RGB", (options.size, options.size)).save(stream, "PNG")
    with Image.open(io.BytesIO(encode(stream.getvalue(), "black.png", options).jpeg)) as image:
        return form_of(image)
