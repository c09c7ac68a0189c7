"""Which device a command works on."""

from __future__ import annotations

import os
import subprocess

import torch

from alexnet_fast.tools.errors import UsageError, UserError


def choose_device(asked: str | None = None) -> torch.device:
    """`asked`: "cpu", "cuda" or "cuda:N"; None: the first GPU where there is one, else the CPU.

    A GPU always comes back with its number.  Raises UsageError for another word, and for a GPU that is not there.
    """
    if asked is None:
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
    return device


def start_gpu(device: torch.device) -> None:
    """Make it this process's GPU, and see that our kernels can be started on it; UserError if they cannot."""
    torch.cuda.set_device(device)
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
        why = (
            "this torch is built without CUDA"
            if torch.version.cuda is None
            else "torch finds no working NVIDIA driver (nvidia-smi should list the GPU)"
        )
        raise UsageError(f"device {asked}: no GPU can be used, {why}. Use --device cpu.")
    count = torch.cuda.device_count()
    if index >= count:
        raise UsageError(
            f"device {asked}: this machine has {count} GPU{'s'[: count != 1]}, numbered from 0: give one of those."
        )
    return index


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
