"""Large pages for large tensors: the kernel's own account of a process is the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_fast.tools import huge_pages

CHOICE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
from alexnet_fast.tools.huge_pages import ask_for_huge_pages
ask_for_huge_pages()
import torch
tensor = torch.ones(16 << 20)
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""


def huge_kb(setting: dict[str, str]) -> int:
    """Of a new process that has made a tensor of 64 MB."""
    environment = {name: value for name, value in os.environ.items() if name != huge_pages.ENABLE}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment | setting, capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(
    not CHOICE.is_file() or "[madvise]" not in CHOICE.read_text(),
    reason="this kernel gives large pages to everybody or to nobody",
)
def test_large_tensors_lie_in_large_pages() -> None:
    # The kernel may be short of whole pages: a half is enough to show that torch has asked.
    assert huge_kb({}) > 32 << 10
    assert huge_kb({huge_pages.ENABLE: "0"}) == 0


def test_the_users_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(huge_pages.ENABLE, "0")
    huge_pages.ask_for_huge_pages()
    assert os.environ[huge_pages.ENABLE] == "0"
    monkeypatch.delenv(huge_pages.ENABLE)
    huge_pages.ask_for_huge_pages()
    assert os.environ[huge_pages.ENABLE] == "1"
