"""Many short byte strings in one buffer: columns of names and labels."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator


class ByteStrings:
    """Many short byte strings in one buffer."""

    def __init__(self, strings: Iterable[bytes] = ()) -> None:
        self.buffer = bytearray()
        self.ends = array("q")
        for string in strings:
            self.append(string)

    def append(self, string: bytes) -> None:
        self.buffer += string
        self.ends.append(len(self.buffer))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[bytes]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self.ends):
            raise IndexError(number)
        return bytes(self.buffer[self.ends[number - 1] if number else 0 : self.ends[number]])
