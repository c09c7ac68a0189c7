"""Numbers and commands in messages."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from alexnet_fast.tools.messages import MOST_NAMED, command, counted, did_you_mean, few


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (1500, "1,500 shards")]
)
def test_one_is_no_plural(number: int, words: str) -> None:
    assert counted(number, "shard") == words


def test_plurals_of_their_own() -> None:
    assert (counted(1, "class", "classes"), counted(3, "class", "classes")) == ("1 class", "3 classes")


def test_a_command_can_be_copied_into_a_shell() -> None:
    message = command("shard", "…", "--out", "/data/my shards; ls")
    assert message.startswith("`alexnet-fast shard … --out ") and message.endswith("`")
    assert shlex.split(message.strip("`"))[-1] == "/data/my shards; ls"
    assert command("info", "-x") == "`alexnet-fast info ./-x`"
    assert command("train", Path("--x"), "--out", Path("--y")) == "`alexnet-fast train ./--x --out ./--y`"


@pytest.mark.parametrize(
    "name", [b"line\nend", b"tab\tend", b"no utf-8 \xff\xfe0", b"it's \\n\n", b"\x1b[31mred", "ü\u202e".encode()]
)
def test_names_that_no_message_can_show_are_copied_too(name: bytes) -> None:
    """A terminal shows what stands there, and the shell makes the name's very bytes of it."""
    message = command("info", os.fsdecode(name)).strip("`")
    assert message.isprintable() and message.startswith("alexnet-fast info $'")
    words = subprocess.run(
        ["bash", "-c", message.replace("alexnet-fast", r"printf '%s\0'")], capture_output=True
    ).stdout
    assert words.split(b"\0")[1] == name


def test_of_many_names_three_are_told() -> None:
    assert few(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"
    assert few(["a"]) == "'a'"


def test_a_thousand_classes_are_not_listed() -> None:
    names = [f"n{number:08}" for number in range(1000)]
    listed = did_you_mean("zebra", names)
    assert names[MOST_NAMED - 1] in listed and names[MOST_NAMED] not in listed
    assert listed.endswith(", … (1,000 in all)")
    assert did_you_mean("zebra", names[:3]) == "choose from n00000000, n00000001, n00000002"
    assert did_you_mean("n0000999", names) == "did you mean 'n00000999'?"


def test_a_command_is_one_that_the_shell_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv/bin/alexnet-fast")])
    monkeypatch.setenv("PATH", "")
    assert command("info", "x") == "`.venv/bin/alexnet-fast info x`"
    program = tmp_path / "bin" / "alexnet-fast"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert command("info", "x") == "`alexnet-fast info x`"
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("PATH", "")
    assert command("info", "x") == "`alexnet-fast info x`"
