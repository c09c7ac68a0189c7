"""How many processes train together, and whether a replica's two towers share a process or have one each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.distributed.devices import choose_device
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.torchrun_env import local_world_size, started_processes
from alexnet_fast.network.model import Architecture
from alexnet_fast.tools.errors import UsageError

PARALLELS = ("auto", "towers", "data")


@dataclass(frozen=True)
class Layout:
    """The processes of a run."""

    device: torch.device
    """Of the only process; of several, their kind: "cpu" or "cuda", each takes the GPU with its number."""
    num_processes: int
    """On all machines together."""
    split: bool
    """Whether two neighboring processes make one replica, one tower each."""
    reason: str
    """One line for people: what was chosen and why."""
    started: bool = False
    """Whether the processes are there already: torchrun started them, and this is one of them."""


def choose_layout(
    architecture: Architecture,
    batch_size: int,
    *,
    precision: str = "auto",
    device: str | None = None,
    gpus: int | None = None,
    processes: int | None = None,
    parallel: str = "auto",
) -> Layout:
    """The layout for a batch of `batch_size` images, all processes together.

    `gpus` None: all that can share the batch.  `processes`: on a CPU, for trying; None: 1.  `parallel`: "towers": two
    processes a replica; "data": both towers in every process; "auto": what sends fewer bytes.  Under torchrun the
    environment says how many processes there are.  Raises UsageError for what cannot be, or not on this machine.
    """
    if parallel not in PARALLELS:
        raise UsageError(f"parallel is {parallel!r}: choose {', '.join(PARALLELS)}")
    started = started_processes()
    if started is not None and (gpus is not None or processes is not None):
        given = "--gpus" if gpus is not None else "--processes"
        raise UsageError(f"torchrun already started {started} processes: omit {given}")
    place = choose_place(device, gpus, processes)
    num = started if started is not None else count_processes(place, gpus, processes, batch_size, device)
    if num == 1:
        if parallel == "towers":
            raise UsageError("--parallel towers needs two processes: give --gpus 2 (on a CPU: --processes 2)")
        place = choose_device(device)  # with its number
        where = "CPU" if place.type == "cpu" else f"GPU {place.index}"
        return Layout(place, 1, False, f"one process on the {where}", started is not None)
    obstacle = what_forbids_towers(architecture, num, gpu_names(place, num) if started is None else [])
    if parallel == "towers" and obstacle is not None:
        raise UsageError(f"--parallel towers: {obstacle}; or give --parallel data")
    Mesh(world_size=num).share_batch(batch_size)
    check_communication(place.type)
    dtype = choose_precision(place, precision).dtype
    split, why = choose_split(architecture, batch_size, num, parallel, obstacle, dtype)
    reason = describe(place, num, split, why)
    if place.type == "cuda" and started is None and gpus is None and num < torch.cuda.device_count():
        reason += f"; {torch.cuda.device_count() - num} GPUs stay idle, batch {batch_size} cannot be shared by all"
    return Layout(place, num, split, reason, started is not None)


def choose_place(device: str | None, gpus: int | None, processes: int | None) -> torch.device:
    """The kind of device, after the options that contradict each other are refused."""
    if processes is not None and processes < 1:
        raise UsageError(f"--processes is {processes}: at least 1")
    if gpus is not None and gpus < 1:
        raise UsageError(f"--gpus is {gpus}: at least 1; for the CPU give --device cpu")
    if gpus is not None and device == "cpu":
        raise UsageError(f"--gpus {gpus} and --device cpu contradict each other: leave one out (CPU: --processes)")
    if gpus is not None and processes is not None:
        raise UsageError("--gpus and --processes contradict each other: each GPU has one process")
    if gpus is not None and device is not None and device != "cuda" and gpus > 1:
        raise UsageError(f"--device {device} is one GPU and --gpus asks for {gpus}: omit --device")
    if gpus is not None and not torch.cuda.is_available():
        try:
            choose_device("cuda")
        except UsageError as error:
            reason = str(error).partition(": ")[2]
            raise UsageError(
                f"--gpus {gpus}: {reason.replace('Use --device', 'Leave out --gpus, or use --device')}"
            ) from None
    chosen = choose_device(device)
    if processes is not None and chosen.type != "cpu":
        raise UsageError(f"--processes {processes} is for the CPU: add --device cpu, or give --gpus {processes}")
    return torch.device(chosen.type)


def count_processes(
    place: torch.device, gpus: int | None, processes: int | None, batch_size: int, device: str | None
) -> int:
    """How many processes this machine is to start."""
    if place.type == "cpu":
        return processes if processes is not None else 1
    there = torch.cuda.device_count()
    if gpus is not None:
        if gpus > there:
            raise UsageError(
                f"--gpus {gpus}: this machine has {there} GPU{'s'[: there != 1]}: give at most --gpus {there}"
            )
        return gpus
    if device is not None and device != "cuda":
        return 1
    return max(num for num in range(1, there + 1) if batch_size % num == 0)


def check_communication(kind: str) -> None:
    """Several processes need torch's communication libraries."""
    if not dist.is_available():
        raise UsageError(
            "this torch was built without torch.distributed, which several processes need: "
            "install torch's build for Linux"
        )
    if kind == "cuda" and not dist.is_nccl_available():
        raise UsageError(
            "this torch was built without NCCL, which several GPUs need: install torch's CUDA build for Linux"
        )


def gpu_names(place: torch.device, num: int) -> list[str]:
    """Of the GPUs that the processes of this machine will have; none on a CPU."""
    return [torch.cuda.get_device_name(index) for index in range(num)] if place.type == "cuda" else []


def what_forbids_towers(architecture: Architecture, num: int, names: list[str]) -> str | None:
    """Why the processes cannot hold a tower each, and what to do; None: they can.  `names`: of the GPUs, if known."""
    if architecture.num_towers != 2:
        return "this network has one tower"
    if num % 2:
        return f"{num} processes do not pair up: choose {num - 1 or 2} or {num + 1}"
    here = local_world_size() if started_processes() is not None else num
    if here % 2:
        return f"{here} processes on a machine put a replica's towers on two machines: start an even number on each"
    return different_kinds(names)


def different_kinds(names: list[str]) -> str | None:
    """What is wrong if the two GPUs of a replica differ: they wait for each other, the slower sets the pace of both."""
    for first, second in zip(names[::2], names[1::2], strict=True):
        if first != second:
            return (
                f"a replica's towers would be on a {first} and a {second}, and the slower sets the pace: "
                "choose GPUs of one kind with CUDA_VISIBLE_DEVICES"
            )
    return None


def choose_split(
    architecture: Architecture, batch_size: int, num: int, parallel: str, obstacle: str | None, dtype: torch.dtype
) -> tuple[bool, str]:
    """(whether towers get a process each, why).  `obstacle`: what forbids it."""
    if parallel != "auto":
        return parallel == "towers", "as asked"
    if obstacle is not None:
        return False, obstacle
    towers = bytes_as_towers(architecture, batch_size, num, dtype)
    data = bytes_as_data(architecture, num, dtype)
    return towers <= data, (
        f"at batch {batch_size} each sends {towers / 1e6:,.0f} MB a step as towers and {data / 1e6:,.0f} MB as replicas"
    )


def bytes_as_towers(architecture: Architecture, batch_size: int, num: int, dtype: torch.dtype) -> float:
    """Bytes that one process sends in a training step when each holds one tower.

    Its half of the images, its maps and units in front of the layers that see both towers, the gradients of the
    other's, its logits; between replicas, its tower's gradients.
    """
    a = architecture
    replicas = num // 2
    images = batch_size / replicas
    maps = a.maps[1] * a.map_sizes[3] ** 2 + a.maps[4] * a.map_sizes[6] ** 2 + a.units[0] if a.exchanged else 0
    forward_and_back = 2 * (maps + a.units[1]) / 2
    per_image = forward_and_back + a.num_classes / 2 + 3 * a.image_size**2 / 2
    return images * per_image * dtype.itemsize + sent_by_all_reduce(num_parameters(a) / 2, replicas, dtype)


def bytes_as_data(architecture: Architecture, num: int, dtype: torch.dtype) -> float:
    """Bytes that one process sends in a training step when each holds both towers: all gradients."""
    return sent_by_all_reduce(num_parameters(architecture), num, dtype)


def sent_by_all_reduce(numbers: float, num: int, dtype: torch.dtype) -> float:
    """Bytes that each of `num` processes sends to sum `numbers` numbers, around a ring."""
    return 2 * (num - 1) / num * numbers * dtype.itemsize


def num_parameters(architecture: Architecture) -> int:
    """Weights and biases, both towers together."""
    shapes = architecture.weight_shapes.values()
    return sum(torch.Size(shape).numel() + shape[0] for shape in shapes)


def describe(place: torch.device, num: int, split: bool, why: str) -> str:
    """Two towers on 2 GPUs: at batch 128 …"""
    each = f"{num} GPUs" if place.type == "cuda" else f"{num} CPU processes"
    if not split:
        return f"{num} replicas, each with both towers, on {each}: {why}"
    replicas = num // 2
    return f"{'one replica' if replicas == 1 else f'{replicas} replicas'} of two towers on {each}: {why}"
