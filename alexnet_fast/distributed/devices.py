"""Which device a command works on, and whether this installation can use it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import torch

from alexnet_fast.distributed.machine import DEVICE_NODE
from alexnet_fast.distributed.threads import use_threads
from alexnet_fast.tools.errors import UsageError, UserError

DRIVER_VERSION = Path("/proc/driver/nvidia/version")
"""Exists where NVIDIA's kernel driver is loaded."""
WHEELS = ((580, "cu130"), (570, "cu128"), (525, "cu126"))
"""(first driver branch, newest torch wheel that runs on it), newest first."""


def choose_device(asked: str | None = None) -> torch.device:
    """`asked`: "cpu", "cuda" or "cuda:N"; None: the first GPU where there is one, else the CPU.

    A GPU always comes back with its number.  Raises UsageError for another word, for a GPU that is not there, and
    where this machine has GPUs that this torch cannot use: training on the CPU instead would go unnoticed for hours.
    """
    if asked is None:
        if not torch.cuda.is_available() and (obstacle := what_hides_the_gpu()) is not None:
            raise UsageError(f"this machine has an NVIDIA driver, but {obstacle}. Or use --device cpu.")
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device is {asked!r}: choose cpu, cuda, or cuda:N for the GPU with number N")
    if device.type == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", check_gpu(asked, device.index or 0))


def use_device(asked: str | None = None) -> torch.device:
    """`choose_device`, and everything that is started on "the" GPU from now on, kernels and streams, is on that one."""
    device = choose_device(asked)
    if device.type == "cuda":
        start_gpu(device)
    else:
        use_threads()
    return device


def start_gpu(device: torch.device) -> None:
    """Make it this process's GPU, and see that our kernels can be started on it; UserError if they cannot.

    Float32 is computed as such from now on: convolutions would use TF32 by default and matrix products would not.
    """
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    check_architecture(device)
    try:
        from triton.runtime import driver

        driver.active.get_current_device()  # the first question builds Triton's link to NVIDIA's driver
    except (ImportError, RuntimeError, OSError, AssertionError, subprocess.CalledProcessError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Triton, which makes the GPU's kernels, cannot be used on this machine ({reason}). It needs a C compiler "
            "(CC, gcc or clang), Python's headers, and a home it may write to (TRITON_CACHE_DIR): on Debian or Ubuntu, "
            "apt install gcc python3-dev. Or use --device cpu."
        ) from error


def check_gpu(asked: str, index: int) -> int:
    """`index`, if this machine has that GPU; else UsageError."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            why = "this torch is built without CUDA"
        else:
            why = what_hides_the_gpu() or "torch finds no working NVIDIA driver (nvidia-smi should list the GPU)"
        raise UsageError(f"device {asked}: no GPU can be used, {why}. Use --device cpu.")
    count = torch.cuda.device_count()
    if index >= count:
        raise UsageError(
            f"device {asked}: this machine has {count} GPU{'s'[: count != 1]}, numbered from 0: give one of those."
        )
    return index


def what_hides_the_gpu() -> str | None:
    """Why a torch with CUDA sees no GPU although NVIDIA's driver is loaded, and what to do; None: no driver is loaded.

    Also None where the user hid the GPUs (CUDA_VISIBLE_DEVICES), and for a torch without CUDA.
    """
    if torch.version.cuda is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    try:
        found = re.search(r"\b(\d{3,4})\.\d+(\.\d+)?\b", DRIVER_VERSION.read_text(encoding="utf-8"))
    except OSError:
        return None
    if not DEVICE_NODE.exists():
        return (
            f"no GPU is visible here ({DEVICE_NODE} does not exist). In a container, pass the GPUs in "
            "(docker run --gpus all)"
        )
    driver = found[0] if found is not None else "of an unknown version"
    branch = int(found[1]) if found is not None else 0
    wheel = next((wheel for first, wheel in WHEELS if branch >= first), None)
    needed = f"this torch {torch.__version__} is built for CUDA {torch.version.cuda} and cannot use driver {driver}"
    if wheel is None:
        return f"{needed}. Update the driver: torch 2.9 and newer need 525 or newer"
    if wheel == f"cu{torch.version.cuda.replace('.', '')}":
        return f"torch cannot use the GPU although driver {driver} is new enough for it: look at nvidia-smi and dmesg"
    return (
        f"{needed}. Install the build for it, pip install torch --index-url https://download.pytorch.org/whl/{wheel}, "
        "or update the driver (CUDA 13 needs 580, CUDA 12.8 needs 570)"
    )


def check_architecture(device: torch.device) -> None:
    """UsageError where this torch has no code for the GPU: its first convolution would fail."""
    major, minor = torch.cuda.get_device_capability(device)
    builds = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in torch.cuda.get_arch_list()]
    known = [(match[1], int(match[2]), int(match[3])) for match in builds if match is not None]
    # Machine code runs on the same generation's later GPUs; "compute" is compiled for any later GPU by the driver.
    fits = any((kind == "compute" or own == major) and (own, sub) <= (major, minor) for kind, own, sub in known)
    if known and not fits:
        raise UsageError(
            f"{device} is a {torch.cuda.get_device_name(device)} of compute capability {major}.{minor}, and this torch "
            f"{torch.__version__} has code for {', '.join(torch.cuda.get_arch_list())} only. Builds for CUDA 12.6 also "
            "have code for older GPUs: pip install torch --index-url https://download.pytorch.org/whl/cu126; "
            "or use --device cpu."
        )


def be_deterministic() -> None:
    """From now on torch takes reproducible kernels, in this process; to be called before its first product on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses products on a GPU
    torch.use_deterministic_algorithms(True)
    # Else torch fills every new tensor, for programs that read what they never wrote: a pass over memory for each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def cost_of_determinism(device: torch.device) -> str:
    """A sentence: what is slower for it, and how to measure by how much."""
    if device.type == "cpu":
        return "--deterministic costs nothing on a CPU: the same kernels run without it"
    return (
        "--deterministic: cuDNN's reproducible algorithms for the convolutions' gradients, which are slower as a rule; "
        "`alexnet-fast bench model` measures by how much"
    )
