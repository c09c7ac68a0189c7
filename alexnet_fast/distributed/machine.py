"""What a measurement or a run was made on: processor, GPU, versions, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alexnet_fast.tools.cores import processor_name, usable_cores
from alexnet_fast.tools.version import __version__

DEVICE_NODE = Path("/dev/nvidiactl")
"""Exists where this machine, or this container, has been given GPUs."""
PACKAGES = ("torch", "triton", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "webdataset", "numba", "numpy", "pillow")


def describe_machine() -> dict[str, str]:
    """Name -> value, without importing torch or DALI; what cannot be found out is skipped."""
    facts = {
        "processor": processor_name(),
        "cores": str(usable_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "gpu": gpu_names(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "alexnet-fast": __version__,
        "commit": commit(),
    }
    facts |= {package: installed_version(package) for package in PACKAGES}
    return {name: value for name, value in facts.items() if value}


def installed_version(package: str) -> str:
    """ "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def gpu_names() -> str:
    """Every GPU's name, memory and driver as nvidia-smi prints them; "" without nvidia-smi."""
    return output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def commit() -> str:
    """The checkout's commit, with "+" where files differ from it; "" outside a checkout."""
    home = Path(__file__).resolve().parent.parent.parent
    if not (home / ".git").exists():
        return ""
    head = output_of("git", "-C", str(home), "rev-parse", "--short", "HEAD")
    changed = output_of("git", "-C", str(home), "status", "--porcelain", "--untracked-files=no")
    return head + ("+" if head and changed else "")


def output_of(*command: str) -> str:
    """What the command prints, on one line; "" where it does not exist or fails."""
    if shutil.which(command[0]) is None:
        return ""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(finished.stdout.strip().splitlines()) if finished.returncode == 0 else ""
