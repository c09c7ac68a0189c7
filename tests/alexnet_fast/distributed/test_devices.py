"""--device: what is taken and what is refused."""

from __future__ import annotations

import re
import subprocess

import pytest
import torch

from alexnet_fast.distributed.devices import choose_device, use_device
from alexnet_fast.tools.errors import UsageError, UserError


def test_the_cpu_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "mps", "", "cuda:-2"])
def test_other_words_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="choose cpu, cuda"):
        choose_device(asked)


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(UsageError, match="no GPU can be used"):
        choose_device("cuda:0")


def test_gpus_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None) == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="2 GPUs, numbered from 0"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    "trouble",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        subprocess.CalledProcessError(1, ["gcc", "cuda_utils.c"]),
        PermissionError("~/.triton"),
    ],
)
def test_kernels_that_cannot_be_started_are_told(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = pytest.importorskip("triton.runtime").driver

    class Active:
        def get_current_device(self) -> int:
            raise trouble

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(type(driver), "active", Active())
    with pytest.raises(UserError, match=f"{re.escape(str(trouble))}.*apt install gcc python3-dev.*--device cpu"):
        use_device("cuda")
