"""Shards written to an object store (`s3://…`) or anything else that fsspec reaches.

An object store shows an object when its upload is complete and not before, so what is written lies in a local
temporary file until it is whole, and is sent then.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from uuid import uuid4

from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.storage.filesystem import explaining, join, open_system
from alexnet_fast.tools.storage.work_names import LOCK, WORK

BEAT_SECONDS = 20.0
"""Between two signs of life of the run that holds the lock."""
DEAD_SECONDS = 90.0
"""Without a sign of life, after which a lock is nobody's."""


class RemoteOutput:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        open_system(self.url)  # a missing package is reported at once

    def __str__(self) -> str:
        return self.url

    def reach(self, name: str) -> tuple[Any, str]:
        """(file system, path) of a file or folder of the output."""
        return open_system(join(self.url, name))

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        with explaining_staging(join(self.url, name)), tempfile.NamedTemporaryFile(prefix="alexnet-fast-") as file:
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
            # Not rm(recursive=True): older versions of fsspec take the names that it finds for patterns.
            if files := [glob.escape(file) for file in system.find(path)]:
                system.rm(files)
            if system.exists(path):  # a store whose folders are more than the beginnings of names
                system.rmdir(path)

    def free_bytes(self) -> int | None:
        return None

    def prepare(self) -> None:
        """Nothing unfinished is ever there; that it may be written, the lock has shown."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        owner = {"token": uuid4().hex, "host": socket.gethostname(), "process": os.getpid()}
        name = self.take_lock(owner)
        end = threading.Event()
        beat = threading.Thread(target=self.keep_lock, args=(name, owner, end), daemon=True)
        beat.start()
        try:
            yield
        finally:
            end.set()
            beat.join()
            self.release_lock(name, owner)

    def take_lock(self, owner: dict[str, Any]) -> str:
        """Write a lock, unless a living run holds one; returns its name.

        Locks are numbered, and each is created only if it is not there yet: of two runs that find a dead one, one alone
        becomes its successor, and neither can remove or overwrite what the other wrote.
        """
        numbers = self.lock_numbers()
        newest = self.lock_holder(lock_name(numbers[-1])) if numbers else None
        if newest is not None and time.time() - newest["time"] < DEAD_SECONDS:
            raise self.locked_error(newest)
        name = lock_name(numbers[-1] + 1 if numbers else 1)
        with explaining(join(self.url, name), "written"):
            system, path = self.reach(name)
            try:
                system.pipe_file(path, signed(owner), mode="create")
            except OSError:
                # What is there now may be ours too: a request whose answer was lost is sent again.
                if self.lock_holder(name) is None:
                    raise
        holder = self.lock_holder(name)
        if holder is not None and holder["token"] != owner["token"]:
            raise self.locked_error(holder)
        return name

    def lock_numbers(self) -> list[int]:
        """Numbers of the locks that lie there, ascending; all but the last are dead."""
        start = LOCK.rpartition("/")[2] + "-"
        return [int(name.removeprefix(start)) for name in self.names(WORK) if name.startswith(start)]

    def lock_holder(self, name: str) -> dict[str, Any] | None:
        stored = self.read(name)
        return json.loads(stored) if stored else None

    def locked_error(self, holder: dict[str, Any]) -> UserError:
        age = time.time() - holder["time"]
        return UserError(
            f"{self.url}: another `alexnet-fast shard` is writing there (process {holder['process']} on "
            f"{holder['host']}, last heard of {age:.0f} s ago). Wait until it is done; if it was killed, run the "
            f"same command again in {max(DEAD_SECONDS - age, 1):.0f} s, when its lock ends."
        )

    def keep_lock(self, name: str, owner: dict[str, Any], end: threading.Event) -> None:
        """Sign of life after sign of life."""
        while not end.wait(BEAT_SECONDS):
            with suppress(Exception):  # the next beat, or the next shard, reports it
                if self.is_held(name, owner):
                    system, path = self.reach(name)
                    system.pipe_file(path, signed(owner))

    def is_held(self, name: str, owner: dict[str, Any]) -> bool:
        """Whether a lock is still the owner's: silent for too long, it is taken for dead, and another run follows."""
        holder = self.lock_holder(name)
        return holder is not None and holder["token"] == owner["token"]

    def release_lock(self, name: str, owner: dict[str, Any]) -> None:
        """Remove the lock and the dead ones before it; the own one last, so that a dead one is never the newest."""
        if self.is_held(name, owner):
            for number in self.lock_numbers():
                if lock_name(number) <= name:
                    self.remove(lock_name(number))


@contextmanager
def explaining_staging(url: str) -> Iterator[None]:
    """What goes wrong with the temporary file, as a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{url}: cannot be written, for it lies in this machine's temporary folder until it is whole, and there "
            f"writing failed ({error.strerror or error}). Make room there, or set TMPDIR to a folder on a larger disk, "
            "and run the same command again: it resumes where it stopped."
        ) from error


def lock_name(number: int) -> str:
    return f"{LOCK}-{number:06d}"


def signed(owner: dict[str, Any]) -> bytes:
    """A lock's content: whose it is, and a sign of life."""
    return json.dumps(owner | {"time": time.time()}).encode()
