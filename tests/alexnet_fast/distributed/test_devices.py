"""--device: what is taken and what is refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from alexnet_fast.distributed import devices
from alexnet_fast.distributed.devices import choose_device, use_device
from alexnet_fast.tools.errors import UsageError, UserError


def test_the_cpu_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "mps", "", "cuda:-2"])
def test_other_devices_are_refused(asked: str) -> None:
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
def test_kernels_that_cannot_be_started_are_reported(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = pytest.importorskip("triton.runtime").driver

    class Active:
        def get_current_device(self) -> int:
            raise trouble

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(devices, "check_architecture", lambda device: None)
    monkeypatch.setattr(type(driver), "active", Active())
    with pytest.raises(UserError, match=f"{re.escape(str(trouble))}.*apt install gcc python3-dev.*--device cpu"):
        use_device("cuda")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulate NVIDIA's driver of a version beside a torch for some CUDA that does not see its GPUs."""

    def simulate(version: str, cuda: str, *, nodes: bool = True) -> None:
        file = tmp_path / "version"
        file.write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Sat Sep 23 2023\nGCC version: 12.3\n"
        )
        monkeypatch.setattr(devices, "DRIVER_VERSION", file)
        monkeypatch.setattr(devices, "DEVICE_NODE", file if nodes else tmp_path / "none")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return simulate


@pytest.mark.parametrize(
    ("version", "cuda", "words"),
    [
        ("535.183.01", "13.0", r"CUDA 13.0 and cannot use driver 535\.183\.01.*whl/cu126"),
        ("570.86.15", "13.0", r"driver 570\.86\.15.*whl/cu128"),
        ("560.35.03", "12.8", r"driver 560\.35\.03.*whl/cu126"),
        ("470.256.02", "12.6", r"driver 470\.256\.02. Update the driver"),
        ("580.65.06", "13.0", r"driver 580\.65\.06 is new enough.*nvidia-smi"),
    ],
)
def test_a_driver_that_is_too_old_for_torch_is_no_reason_to_train_on_the_cpu(
    driver: Callable[..., None], version: str, cuda: str, words: str
) -> None:
    driver(version, cuda)
    for asked in (None, "cuda"):
        with pytest.raises(UsageError, match=f"{words}.*--device cpu"):
            choose_device(asked)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_container_without_its_gpus_is_reported(driver: Callable[..., None]) -> None:
    driver("580.65.06", "13.0", nodes=False)
    with pytest.raises(UsageError, match="docker run --gpus all"):
        choose_device(None)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_the_user_hid_are_none(
    driver: Callable[..., None], hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver("535.183.01", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert choose_device(None) == torch.device("cpu")


def test_a_torch_without_cuda_uses_the_cpu(driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    driver("535.183.01", "13.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device(None) == torch.device("cpu")


CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((7, 0), CUDA_13, False),
        ((6, 1), CUDA_13, False),
        ((7, 5), CUDA_13, True),
        ((8, 9), CUDA_13, True),  # code for 8.6 runs on it
        ((9, 0), CUDA_13, True),
        ((12, 1), CUDA_13, True),
        ((13, 0), CUDA_13, True),  # compiled by the driver
        ((13, 0), CUDA_13[:-1], False),
        ((9, 0), ["sm_90a"], True),
        ((7, 0), ["sm_50", "sm_60", "sm_70", "sm_80"], True),
        ((7, 0), [], True),  # nobody knows
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_refused(
    capability: tuple[int, int], architectures: list[str], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    if fits:
        devices.check_architecture(torch.device("cuda", 0))
        return
    with pytest.raises(UsageError, match=r"Tesla V100 of compute capability \d+\.\d.*whl/cu126"):
        devices.check_architecture(torch.device("cuda", 0))


def test_float32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions and products alike."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    pytest.importorskip("triton.runtime")
    monkeypatch.setattr("triton.runtime.driver", Mock())
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        devices.start_gpu(torch.device("cuda", 0))
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
