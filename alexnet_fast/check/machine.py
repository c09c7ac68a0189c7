"""Checks of the machine: versions, disk space, ports, writable folders."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path

from alexnet_fast.check.runner import Check, CheckFailedError, Place, SkippedError
from alexnet_fast.distributed.machine import installed_version
from alexnet_fast.tools.cores import processor_name, usable_cores

LEAST = {"torch": (2, 9), "nvidia-dali-cuda120": (2, 4), "numba": (0, 60), "numpy": (1, 26), "pillow": (11, 3)}
"""Package -> the oldest release that was tried; the same as in pyproject.toml."""
SHARED_MEMORY = 64 << 20
"""Bytes that processes need to hand work to one another."""
WRITTEN = 64 << 20
"""Bytes of the file that the disk is timed with."""


def check_versions(place: Place) -> str:
    found, old = [], []
    for package, least in LEAST.items():
        names = ("nvidia-dali-cuda120", "nvidia-dali-cuda130") if package.startswith("nvidia-dali") else (package,)
        installed = next((text for name in names if (text := installed_version(name))), "")
        wanted = ".".join(map(str, least))
        if not installed:
            old.append(f"{package} is not installed, {wanted} is needed")
        elif parts(installed) < least:
            old.append(f"{package} {installed} is older than {wanted}")
        found.append(f"{package} {installed}")
    if old:
        raise CheckFailedError("; ".join(old))
    return ", ".join(found)


def parts(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def check_gpu_is_seen(place: Place) -> str:
    from alexnet_fast.distributed.devices import check_architecture, choose_device, what_hides_the_gpu

    if (obstacle := what_hides_the_gpu()) is not None:
        raise CheckFailedError(obstacle)
    device = choose_device(None)
    if device.type == "cpu":
        raise SkippedError("no GPU here; training uses the CPU")
    import torch

    for index in range(torch.cuda.device_count()):
        check_architecture(torch.device("cuda", index))
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]


def check_cores(place: Place) -> str:
    cores, all_cores = usable_cores(), os.cpu_count() or 1
    limit = "" if cores == all_cores else f" (of {all_cores}: affinity or a container's limit)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores{limit} of {processor_name()}, {memory:.0f} GiB"


def check_port(place: Place) -> str:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.settimeout(5)
        client.connect(server.getsockname())
        return f"processes of this machine reach each other (port {server.getsockname()[1]})"


def check_shared_memory(place: Place) -> str:
    folder = Path("/dev/shm")
    free = shutil.disk_usage(folder).free
    if free < SHARED_MEMORY:
        raise CheckFailedError(f"{folder} has {free / 2**20:.0f} MiB free, {SHARED_MEMORY >> 20} are needed")
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
    return f"{folder}: {free / 2**20:,.0f} MiB free"


def cache_folders() -> dict[str, Path]:
    """What keeps files between runs -> where."""
    home = Path(os.environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 (where there is no home it stays ~)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return {
        "loader settings": cache / "alexnet-fast",
        "compiled loops": Path(os.environ.get("NUMBA_CACHE_DIR") or cache / "alexnet-fast"),
        "Triton": Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton"),
        "matplotlib": Path(os.environ.get("MPLCONFIGDIR") or cache / "matplotlib"),
    }


def problem_of(folder: Path) -> str:
    """Empty where files can be made there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{folder} ({error.strerror})"
    return ""


def check_caches(place: Place) -> str:
    problems = {name: problem_of(folder) for name, folder in cache_folders().items()}
    bad = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    if bad:
        raise CheckFailedError("cannot be written: " + "; ".join(bad))
    return ", ".join(f"{name} in {folder}" for name, folder in cache_folders().items())


def check_disk(place: Place) -> str:
    """Of the data's disk where there is data, else of the temporary folder's."""
    folder = place.folder
    file = folder / "disk"
    begun = time.perf_counter()
    with file.open("wb", buffering=0) as target:
        target.write(os.urandom(1 << 20) * (WRITTEN >> 20))
        os.fsync(target.fileno())
    written = WRITTEN / (time.perf_counter() - begun)
    free = shutil.disk_usage(folder).free
    file.unlink()
    return f"{folder.parent}: {written / 1e6:,.0f} MB/s written, {free / 1e9:,.0f} GB free"


CHECKS = (
    Check("versions", check_versions, "install the missing or old packages: pip install -U PACKAGE"),
    Check("GPU is usable", check_gpu_is_seen, "docs/gpu.md lists drivers and wheels that fit together"),
    Check("processor and memory", check_cores, ""),
    Check("local ports", check_port, "allow connections to 127.0.0.1 in the firewall or the container"),
    Check("shared memory", check_shared_memory, "in a container: --shm-size=1g, or --ipc=host"),
    Check(
        "writable caches",
        check_caches,
        "set XDG_CACHE_HOME, NUMBA_CACHE_DIR, TRITON_CACHE_DIR and MPLCONFIGDIR to a writable folder",
    ),
    Check("disk", check_disk, "set TMPDIR to a disk with free space", 120.0),
)
