"""Shards written to an object store (`s3://…`) or anything else that fsspec reaches.

An object store shows an object when its upload is complete and not before, so what is written lies in a local
temporary file until it is whole, and is sent then.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.output import LOCK
from alexnet_fast.tools.storage import explaining, join, open_system

BEAT_SECONDS = 20.0
"""Between two signs of life of the run that holds the lock."""
DEAD_SECONDS = 90.0
"""Without a sign of life, after which a lock is nobody's."""


class RemoteOutput:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        open_system(self.url)  # a missing package is told at once

    def __str__(self) -> str:
        return self.url

    def reach(self, name: str) -> tuple[Any, str]:
        """(file system, path) of a file or folder of the output."""
        return open_system(join(self.url, name))

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix="alexnet-fast-") as file:
            yield file
            file.flush()
            with explaining(join(self.url, name), "written"):
                system, path = self.reach(name)
                system.put_file(file.name, path)

    def read(self, name: str) -> bytes | None:
        with explaining(join(self.url, name), "read"):
            system, path = self.reach(name)
            try:
                return bytes(system.cat_file(path))
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        with explaining(join(self.url, name), "read"):
            system, path = self.reach(name)
            try:
                return int(system.info(path)["size"])
            except FileNotFoundError:
                return None

    def names(self, folder: str = "") -> list[str]:
        with explaining(join(self.url, folder), "listed"):
            system, path = self.reach(folder)
            try:
                listed = system.ls(path, detail=False)
            except FileNotFoundError:
                return []
        names = {entry.rstrip("/").rpartition("/")[2] for entry in listed if entry.rstrip("/") != path.rstrip("/")}
        return sorted(names)

    def remove(self, folder: str) -> None:
        with explaining(join(self.url, folder), "removed"):
            system, path = self.reach(folder)
            if system.exists(path):
                system.rm(path, recursive=True)

    def free_bytes(self) -> int | None:
        return None

    def prepare(self) -> None:
        """Nothing unfinished is ever there; that it may be written, the lock has shown."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        owner = {"host": socket.gethostname(), "process": os.getpid()}
        end = threading.Event()
        self.take_lock(owner)
        beat = threading.Thread(target=self.keep_lock, args=(owner, end), daemon=True)
        beat.start()
        try:
            yield
        finally:
            end.set()
            beat.join()
            self.remove(LOCK)

    def take_lock(self, owner: dict[str, Any]) -> None:
        """Write the lock, unless a living run holds it."""
        with explaining(join(self.url, LOCK), "written"):
            system, path = self.reach(LOCK)
            stored = self.read(LOCK)
            holder = json.loads(stored) if stored else None
            if holder is not None and holder != owner | {"time": holder["time"]}:
                age = time.time() - holder["time"]
                if age < DEAD_SECONDS:
                    raise UserError(
                        f"{self.url}: another `alexnet-fast shard` is writing there (process {holder['process']} on "
                        f"{holder['host']}, last heard of {age:.0f} s ago). Wait until it is done; if it was killed, "
                        f"its lock ends after {DEAD_SECONDS:.0f} s."
                    )
            system.pipe_file(path, json.dumps(owner | {"time": time.time()}).encode())

    def keep_lock(self, owner: dict[str, Any], end: threading.Event) -> None:
        """Sign of life after sign of life."""
        while not end.wait(BEAT_SECONDS):
            with suppress(Exception):  # the next beat, or the next shard, will tell
                system, path = self.reach(LOCK)
                system.pipe_file(path, json.dumps(owner | {"time": time.time()}).encode())
