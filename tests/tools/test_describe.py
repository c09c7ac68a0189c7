"""What `info` says of a data set, in words that need no manual."""

from __future__ import annotations

from dataclasses import replace

from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.dataset_parts import Note
from alexnet_fast.tools.describe import conversions, describe


def test_conversions_are_counted_one_by_one() -> None:
    reasons = [
        "gray",
        "gray; EXIF orientation 6",
        "CMYK",
        "EXIF orientation 3",
        "gray",
        "PNG under .JPEG; 16 bit",
        "PNG under .JPEG; transparency, laid on white",
        "CMYK; damaged, kept: premature end; gray follows",
        "EXIF orientation 8",
    ]
    assert conversions([Note(f"{number}.jpg", reason) for number, reason in enumerate(reasons)]) == (
        "3 from grayscale; 3 turned upright (EXIF); 2 PNG named .JPEG; 2 from CMYK; 1 from 16 bit; "
        "1 kept although damaged (premature end; gray follows); …"
    )


def test_what_is_named_after_a_file_cannot_move_the_cursor() -> None:
    assert conversions([Note("a", "PNG under .\x1b[2J")]) == "1 PNG named .\\x1b[2J"


def test_what_was_converted_stands_in_the_description(tiny_dataset: Dataset) -> None:
    """The demo's images are odd on purpose: some gray, some CMYK, some turned."""
    lines = dict(line.split(maxsplit=1) for line in describe(tiny_dataset).splitlines() if line[:1].isalpha())
    assert lines["converted"].startswith(f"{len(tiny_dataset.repaired)} images: ")
    assert "from grayscale" in lines["converted"] and "repaired" not in describe(tiny_dataset)
    assert "converted" not in describe(replace(tiny_dataset, repaired=()))
