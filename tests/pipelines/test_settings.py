"""Settings that are kept for a machine: used where they are sound, ignored where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.pipelines.settings import (
    LoaderOptions,
    LoaderSettings,
    machine_key,
    remember,
    remembered,
    settings_file,
)
from alexnet_fast.tools.errors import UserError

CPU = torch.device("cpu")
GOOD: dict[str, Any] = {
    "num_threads": 3, "prefetch": 4, "hw_decoder_load": 0.5, "decode_on": "engines", "decode_batch": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the file that is to hold the settings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    file = settings_file()
    file.parent.mkdir()
    return file


def test_what_is_remembered_is_used(cache: Path) -> None:
    assert remembered(CPU) is None
    assert remember(CPU, LoaderSettings(3, 4, 0.5)) == cache
    assert LoaderOptions().settings(CPU) == LoaderSettings(3, 4, 0.5)
    assert LoaderOptions(1, None, 0.25).settings(CPU) == LoaderSettings(1, 4, 0.25)


def test_other_machines_are_kept(cache: Path) -> None:
    cache.write_text(json.dumps({"other": GOOD}))
    remember(CPU, LoaderSettings(3, 4, 0.5))
    assert json.loads(cache.read_text()) == {"other": GOOD, machine_key(CPU): GOOD}


@pytest.mark.parametrize("content", ["", "[]", "null", '"a"', "Infinity", "7", "{", "\xff", "[" * 100_000])
def test_a_damaged_file_is_ignored_and_made_anew(cache: Path, content: str) -> None:
    cache.write_text(content, encoding="latin-1")
    assert remembered(CPU) is None
    remember(CPU, LoaderSettings(3, 4, 0.5))
    assert remembered(CPU) == LoaderSettings(3, 4, 0.5)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        "a",
        7,
        {},
        {"num_threads": 3, "prefetch": 4, "hw_decoder_load": 0.5},  # of release 0.1
        GOOD | {"threads": 3},
        GOOD | {"decode_on": "gpu"},
        GOOD | {"decode_on": None},
        GOOD | {"decode_on": ["cpu"]},
        GOOD | {"decode_batch": 0},
        GOOD | {"decode_batch": 1024.0},
        GOOD | {"num_threads": 0},
        GOOD | {"num_threads": 10**9},
        GOOD | {"num_threads": 2.5},
        GOOD | {"num_threads": "3"},
        GOOD | {"num_threads": True},
        GOOD | {"num_threads": float("inf")},
        GOOD | {"prefetch": -1},
        GOOD | {"prefetch": 10**9},
        GOOD | {"prefetch": None},
        GOOD | {"hw_decoder_load": 1.01},
        GOOD | {"hw_decoder_load": float("nan")},
        GOOD | {"hw_decoder_load": "0.5"},
        GOOD | {"hw_decoder_load": 10**400},
    ],
)
def test_values_that_cannot_be_are_ignored(cache: Path, kept: object) -> None:
    cache.write_text(json.dumps({machine_key(CPU): kept}))
    assert remembered(CPU) is None


def test_a_machine_is_known_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container gets a new host name each time."""
    before = machine_key(CPU)
    for function in ("os.uname", "platform.node", "socket.gethostname"):
        monkeypatch.setattr(function, lambda: pytest.fail("the host's name was asked for"))
    assert machine_key(CPU) == before


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert remembered(CPU) is None
    with pytest.raises(UserError, match="Set XDG_CACHE_HOME"):
        remember(CPU, LoaderSettings(3, 4, 0.5))
