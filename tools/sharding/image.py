"""One image: bytes as somebody stored them → upright RGB → short side 256, center 256×256 → JPEG.

The policy, every row of which is in docs/formats.md:
- the center square of the image is made `size` × `size`, smaller by area averaging (or another filter), larger by
  cubic interpolation, as cuda-convnet2 (2014) did; how images were resized in 2012 is not
  known;
- JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF and JPEG 2000 are read, whatever the file is called; of an animation or a
  file of several images, the first;
- gray, CMYK, palettes and up to 16 bits become 8-bit RGB (see color.py); what is transparent is laid on white, as a
  browser shows it; EXIF orientation is applied and dropped, XMP's is not looked at, as browsers and OpenCV do; color
  profiles are dropped, not applied, as everybody's ImageNet pipeline does;
- what was converted is listed as repaired; what cannot be decoded to the end, has no sensible size or is no image
  raises `BadImageError`.

Output: baseline JPEG, RGB, 4:2:0 (most sources are 4:2:0 already, and hardware decoders like it), no metadata.  The
JPEG's own scaled decoding (`draft`) is not used: at ImageNet's sizes it would rarely apply, and its pixels differ.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
from PIL import Image, UnidentifiedImageError, features

from alexnet_fast.tools.dataset import ImageOptions
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.sharding.color import SMALL_PIXELS, UnknownRangeError, by_rows, to_rgb, to_rgb_by_rows
from alexnet_fast.tools.sharding.image_format import FORMATS, unexpected, unidentified
from alexnet_fast.tools.sharding.jpeg import (
    DamagedJpegError,
    UnusualSubsamplingError,
    decode_damaged,
    decode_strictly,
)
from alexnet_fast.tools.sharding.resize import average_area
from alexnet_fast.tools.version import __version__

POLICY_VERSION = 2
"""Changes whenever this module makes other pixels of some file: shards of two versions are not mixed."""

TRUNCATED = "Premature end of JPEG file"
"""libjpeg's message."""

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
"""Pixels; an image with a shorter side shows nothing at 256."""

MAX_PIXELS = 178_956_970
"""Larger images are taken for decompression bombs: 512 MiB as RGB, Pillow's own limit for an error."""

ORIENTATION = 0x0112
"""EXIF tag."""

SUBFILE_TYPE = 254
"""TIFF tag, whose lowest bit says that a page is a smaller version of another."""

Turn = Image.Transpose
UPRIGHT = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""

BACK = {turn: turn for turn in Turn} | {Turn.ROTATE_90: Turn.ROTATE_270, Turn.ROTATE_270: Turn.ROTATE_90}
"""What undoes a turn."""

FROM_RIGHT = (Turn.FLIP_LEFT_RIGHT, Turn.ROTATE_180, Turn.ROTATE_90, Turn.TRANSVERSE)
FROM_BOTTOM = (Turn.FLIP_TOP_BOTTOM, Turn.ROTATE_180, Turn.ROTATE_270, Turn.TRANSVERSE)
"""Turns after which pixels count from where the right, or the bottom, was."""

XMP = ("xmp", "XML:com.adobe.xmp")
"""Where Pillow keeps XMP, from which it would take an orientation where EXIF has none."""


class BadImageError(Exception):
    """The image cannot be used; the message is the reason, for the list of those skipped."""


@dataclass(frozen=True)
class Encoded:
    """An image ready for a shard."""

    jpeg: bytes
    pixels: npt.NDArray[np.uint8]
    """(size, size, 3), before encoding."""
    repairs: str
    """What was converted, "; " between; empty where nothing was."""


class _Decoded(NamedTuple):
    """8-bit RGB, as it is stored or as Pillow turned it."""

    pixels: Image.Image | npt.NDArray[np.uint8]
    turn: Turn | None
    """What is left to be done."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.size if isinstance(self.pixels, Image.Image) else self.pixels.shape[1::-1]

    def rows(self, first: int, last: int) -> npt.NDArray[np.uint8]:
        """Some rows, (last - first, W, 3)."""
        if isinstance(self.pixels, Image.Image):
            return np.asarray(self.pixels.crop((0, first, self.pixels.width, last)))
        return self.pixels[first:last]

    def image(self) -> Image.Image:
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)


def encoder_version() -> str:
    """What decides the JPEGs' bytes besides the options."""
    return (
        f"Pillow {PIL.__version__}, libjpeg-turbo {features.version_feature('libjpeg_turbo') or 'absent'}, "
        f"simplejpeg {simplejpeg.__version__}, pixel policy {POLICY_VERSION}"
    )


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
        pixels = _center_square(_decode(content, name, options, repairs), options)
    except BadImageError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{name}: there is not enough memory to decode it. Run the same command again, with fewer --workers, or "
            "remove the image: what is done is not lost."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise BadImageError(_reason(error, content)) from error
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=options.quality, subsampling="4:2:0")
    return Encoded(stream.getvalue(), pixels, "; ".join(repairs))


def _reason(error: Exception, content: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return unidentified(content)
    if isinstance(error, Image.DecompressionBombError):
        return f"decompression bomb: more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnknownRangeError):
        return str(error)
    text = str(error)
    if isinstance(error, DamagedJpegError):
        return (
            "truncated"
            if text == "Premature end of JPEG file"
            else f"damaged: {text.removeprefix('Corrupt JPEG data: ')}"
        )
    if "truncated" in text.lower():
        return "truncated"
    # Only the start: messages may hold counts and addresses of no use.
    return f"cannot be decoded: {text.splitlines()[0][:100] if text else type(error).__name__}"


def _decode(content: bytes, name: str, options: ImageOptions, repairs: list[str]) -> _Decoded:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; neither is news here
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.format == "TIFF":
            _seek_whole_page(image)
        if image.width * image.height > MAX_PIXELS:
            raise BadImageError(f"decompression bomb: {image.width} × {image.height} pixels")
        if min(image.size) < MIN_SIDE:
            raise BadImageError(f"too small: {image.width} × {image.height} pixels")
        repairs += unexpected(image, name)
        if image.format in ("JPEG", "MPO"):
            pixels: Image.Image | npt.NDArray[np.uint8] = _decode_jpeg(content, image, options, repairs)
            turn = UPRIGHT.get(_orientation(image))
        else:
            turn = _load(image)
            pixels, converted = to_rgb_by_rows(image, content[24] if image.format == "PNG" else None)
            repairs += converted
    if options.exif == "apply" and turn is not None:
        repairs.append(f"EXIF orientation {next(key for key, value in UPRIGHT.items() if value == turn)}")
    if image.format == "TIFF":  # which Pillow has turned already
        left = None if options.exif == "apply" or turn is None else BACK[turn]
    else:
        left = turn if options.exif == "apply" else None
    return _Decoded(pixels, left)


def _seek_whole_page(image: Image.Image) -> None:
    """Go to the first page of a TIFF that is no thumbnail of another."""
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        if not getattr(image, "tag_v2").get(SUBFILE_TYPE, 0) & 1:  # noqa: B009 (only TIFFs have it)
            return
    image.seek(0)


def _load(image: Image.Image) -> Turn | None:
    """Decode a file that is no JPEG; what turns it upright."""
    if image.format == "TIFF":  # Pillow turns it, and forgets that it was turned
        turn = UPRIGHT.get(_orientation(image))
        image.load()
        return turn
    image.load()
    return UPRIGHT.get(_orientation(image))


def _decode_jpeg(
    content: bytes, image: Image.Image, options: ImageOptions, repairs: list[str]
) -> Image.Image | npt.NDArray[np.uint8]:
    """(H, W, 3), or an image of four channels converted; `image`: opened, not decoded."""
    colors = "CMYK" if image.mode == "CMYK" else "RGB"
    try:
        pixels, foreign = decode_strictly(content, colors)
        if foreign:
            repairs.append("foreign bytes between the JPEG's segments")
    except UnusualSubsamplingError:
        repairs.append("unusual subsampling, not looked at for damage")
        image.load()
        converted, names = to_rgb(image, None)
        repairs += names
        return converted
    except DamagedJpegError as error:
        if options.damaged != "keep":
            raise
        pixels = decode_damaged(content, colors)
        repairs.append(f"damaged, kept: {error}")
    if image.mode == "L":
        repairs.append("gray")
    if image.mode != "CMYK":
        return pixels
    # Inverted with and without Adobe's marker, as Pillow, OpenCV and browsers do.
    rgb, names = by_rows(image.size, lambda first, last: to_rgb(_inverted(pixels[first:last]), None))
    repairs += names
    return rgb


def _inverted(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.frombuffer("CMYK", pixels.shape[1::-1], pixels, "raw", "CMYK;I", 0, 1)


def _orientation(image: Image.Image) -> int:
    """What EXIF says; 1, upright, where there is none, or none that can be read: the pixels may be whole."""
    for key in XMP:
        image.info.pop(key, None)
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # whatever damaged EXIF leads Pillow to
        return 1
    return orientation if orientation in UPRIGHT else 1


def _center_square(decoded: _Decoded, options: ImageOptions) -> npt.NDArray[np.uint8]:
    """The center square, upright, (size, size, 3).

    The square's corner is a whole pixel, so that an image of the right size is cut and not blurred by half a pixel.  It
    is turned when it is small: of a large image there is never a second one in memory.
    """
    (width, height), size, turn = decoded.size, options.size, decoded.turn
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Of an odd number of pixels, the right or the bottom loses one more, after turning.
    if turn in FROM_RIGHT:
        left = width - side - left
    if turn in FROM_BOTTOM:
        top = height - side - top
    if side > size and options.filter == "area":
        source = _Decoded(np.asarray(decoded.pixels), turn) if width * height <= SMALL_PIXELS else decoded
        square = average_area(lambda first, last: source.rows(top + first, top + last), left, side, size)
    elif side == size:
        square = np.asarray(decoded.image().crop((left, top, left + side, top + side)))
    else:
        chosen = FILTERS[options.filter] if side > size else Image.Resampling.BICUBIC
        square = np.asarray(decoded.image().resize((size, size), chosen, box=(left, top, left + side, top + side)))
    return square if turn is None else np.asarray(Image.fromarray(square).transpose(turn))
