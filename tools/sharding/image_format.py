"""Which image formats are read, and what other files are called."""

from __future__ import annotations

from PIL import Image

from alexnet_fast.tools.sharding.jpeg import precision

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Decoders that are tried; the exotic ones of Pillow are no loss and a risk."""

EXTENSIONS = {
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
    "avif": "AVIF",
    "jp2": "JPEG2000",
}
"""Extension -> what Pillow calls the format."""

UNREAD_FORMATS = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<html", "a web page"),
    (0, b"<!doctype html", "a web page"),
    (0, b"pk\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip"),
)
"""(offset, bytes, name) of what is met among images and is not read; ASCII letters in either case."""

KNOWN_STARTS = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
"""How the formats that are read begin."""


def unidentified(content: bytes) -> str:
    """What a file is that none of the decoders knows."""
    start = content[:64].lower()
    for offset, magic, format_name in UNREAD_FORMATS:
        if start[offset:].startswith(magic.lower()):
            return f"{format_name}, which is not among the formats that are read"
    for magic, format_name in KNOWN_STARTS:
        if content.startswith(magic):
            if format_name == "JPEG" and (precision(content) or 8) > 8:
                return f"JPEG of {precision(content)} bits, which is not read"
            return f"{format_name} of a kind that is not read, or with a damaged header"
    return "not an image, or of an unknown format"


def unexpected(image: Image.Image, name: str) -> list[str]:
    """What the list of repairs says of an opened image's format: another than its name's extension, several images."""
    kind = "JPEG" if image.format == "MPO" else image.format or "unknown"
    extension = name.rpartition(".")[2]
    promised = EXTENSIONS.get(extension.lower())
    notes = [f"{kind} under .{extension}"] if promised is not None and promised != kind else []
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append("several pages, one taken" if image.format == "TIFF" else "animation, first frame taken")
    return notes
