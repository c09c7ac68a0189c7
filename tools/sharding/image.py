"""One image: bytes as somebody stored them → upright RGB → short side 256, center 256×256 → JPEG.

The policy:
- the center square of the image is made `size` × `size`, smaller by area averaging (or another filter), larger by
  cubic interpolation, as cuda-convnet2 (2014) did; how images were resized in 2012 is not known;
- JPEG, PNG, GIF, BMP, WebP, TIFF and PPM are read, whatever the file is called; of an animation, the first frame;
- gray, CMYK (inverted as Adobe does, or not), palettes and 16 bit become 8-bit RGB; what is transparent is laid on
  white, as a browser shows it; EXIF orientation is applied and dropped; color profiles are dropped, not applied, as
  everybody's ImageNet pipeline does;
- what was converted is listed as repaired; what cannot be decoded to the end, has no sensible size or is no image
  raises `BadImageError`.

Output: baseline JPEG, RGB, 4:2:0 (most sources are 4:2:0 already, and hardware decoders like it), no metadata.  The
JPEG's own scaled decoding (`draft`) is not used: at ImageNet's sizes it would rarely apply, and its pixels differ.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, ImageChops, UnidentifiedImageError, features

from alexnet_fast import __version__
from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.resize import average_area

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Decoders that are tried; the exotic ones of Pillow are no loss and a risk."""

FILTERS = {
    "area": None,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""`--filter` -> Pillow's filter, all of them antialiased; "area" is ours."""

MIN_SIDE = 8
"""Pixels; a image with a shorter side shows nothing at 256."""

MAX_PIXELS = 178_956_970
"""Larger images are taken for decompression bombs: 512 MiB as RGB, Pillow's own limit for an error."""

ORIENTATION = 0x0112
"""EXIF tag."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""

OTHER_MODES = {"1": "black and white", "L": "gray", "P": "palette", "YCbCr": "YCbCr", "LAB": "CIELAB"}
"""Pillow's modes that `convert` makes RGB as it should -> what the list of repairs calls them."""

_EXTENSIONS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "jpe": "JPEG",
    "jfif": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
}


class BadImageError(Exception):
    """The image cannot be used; the message is the reason, for the list of those skipped."""


@dataclass(frozen=True)
class Encoded:
    """A image ready for a shard."""

    jpeg: bytes
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    """(size, size, 3), before encoding."""
    repairs: str
    """What was converted, "; " between; empty where nothing was."""


def encoder_version() -> str:
    """What decides the JPEGs' bytes besides the options."""
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version_feature('libjpeg_turbo') or 'absent'}"


def program_version() -> str:
    """This program and what encodes its JPEGs: all that decides a shard's bytes besides source and options."""
    return f"alexnet-fast {__version__}, {encoder_version()}"


def encode(content: bytes, name: str, options: ImageOptions) -> Encoded:
    """Make a stored image of a file's bytes; `name` is looked at for its extension only.

    Raises BadImageError with the reason; UserError where memory is short, which is not the image's fault.
    """
    if not content:
        raise BadImageError("empty file")
    repairs: list[str] = []
    try:
        image = _decode(content, name, options, repairs)
    except BadImageError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{name}: there is not enough memory to decode it. Run the same command again, with fewer --workers, or "
            "remove the image: what is done is not lost."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise BadImageError(_reason(error)) from error
    square = _center_square(image, options)
    stream = io.BytesIO()
    square.save(stream, "JPEG", quality=options.quality, subsampling="4:2:0")
    pixels = np.frombuffer(square.tobytes("raw", "RGB"), np.uint8).reshape(options.size, options.size, 3)
    return Encoded(stream.getvalue(), pixels, "; ".join(repairs))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or an unknown format"
    if isinstance(error, Image.DecompressionBombError):
        return f"decompression bomb: more than {MAX_PIXELS:,} pixels"
    text = str(error)
    if "truncated" in text.lower():
        return "truncated"
    # Only the start: messages may hold counts and addresses of no use.
    return f"cannot be decoded: {text.splitlines()[0][:100] if text else type(error).__name__}"


def _decode(content: bytes, name: str, options: ImageOptions, repairs: list[str]) -> Image.Image:
    """Upright 8-bit RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; neither is news here
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(f"decompression bomb: {image.width} × {image.height} pixels")
        if min(image.size) < MIN_SIDE:
            raise BadImageError(f"too small: {image.width} × {image.height} pixels")
        _note_format(image, content, name, repairs)
        image.load()
        orientation = _orientation(image) if options.exif == "apply" else 1
        image = _to_rgb(image, repairs)
    if orientation in UPRIGHT:
        repairs.append(f"EXIF orientation {orientation}")
        image = image.transpose(UPRIGHT[orientation])
    return image


def _orientation(image: Image.Image) -> int:
    """As EXIF tells it; 1, upright, where there is none, or none that can be read: the pixels may be whole."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # whatever damaged EXIF leads Pillow to
        return 1
    return orientation if orientation in UPRIGHT else 1


def _note_format(image: Image.Image, content: bytes, name: str, repairs: list[str]) -> None:
    kind = "JPEG" if image.format == "MPO" else image.format or "unknown"
    extension = name.rpartition(".")[2]
    promised = _EXTENSIONS.get(extension.lower())
    if promised is not None and promised != kind:
        repairs.append(f"{kind} under .{extension}")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        repairs.append("animation, first frame taken")
    if kind == "PNG" and len(content) > 24 and content[24] == 16:
        repairs.append("16 bit")


def _to_rgb(image: Image.Image, repairs: list[str]) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode == "CMYK":
        repairs.append("CMYK")
        # Pillow undoes Adobe's inversion on every JPEG; one without Adobe's mark was not inverted.
        if image.format == "JPEG" and "adobe" not in image.info:
            image = ImageChops.invert(image)
        return image.convert("RGB")
    if mode.startswith("I"):
        if "16 bit" not in repairs:
            repairs.append("16 bit")
        return _from_16_bit(image).convert("RGB")
    if mode == "F":
        raise BadImageError("floating-point pixels, of no known range")
    if image.has_transparency_data:
        repairs.append("transparency, laid on white")
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    repairs.append(OTHER_MODES.get(mode, f"mode {mode}"))
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Gray of 16 bit -> 8 bit, the upper byte, as Pillow does with 16-bit color."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError("32-bit pixels, of no known range")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _center_square(image: Image.Image, options: ImageOptions) -> Image.Image:
    """The center square, `options.size` pixels wide, without metadata.

    The square's corner is a whole pixel, so that a image of the right size is cut and not blurred by half a pixel.
    """
    side, size = min(image.size), options.size
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if side > size and options.filter == "area":
        square = average_area(image, left, top, side, size)
    elif side == size:
        square = image.crop((left, top, left + side, top + side))
    else:
        chosen = FILTERS[options.filter] if side > size else Image.Resampling.BICUBIC
        square = image.resize((size, size), chosen, box=(left, top, left + side, top + side))
    square.info = {}  # Pillow would write a comment found there
    return square
