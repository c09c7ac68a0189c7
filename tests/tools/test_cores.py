"""The number of usable cores, from made-up control group files of version 1 and 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_fast.tools import cores
from alexnet_fast.tools.cores import num_cores, num_sharing, share_machine, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(cores, "_sharing", 1)


def cores_with(folder: Path, membership: str, files: dict[str, str]) -> int:
    """Usable cores where /proc/self/cgroup is `membership` and /sys/fs/cgroup has these files."""
    process, cgroups = folder / "process", folder / "cgroups"
    process.mkdir()
    (process / "cgroup").write_text(membership)
    for name, content in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(content)
    return usable_cores(process, cgroups)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # a fraction of a core needs a thread
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),
        # The tightest of the enclosing groups holds.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "max 100000"}, 2),
        # In a container the group's own path is not below the mount.
        ("0::/system.slice/docker-1.scope\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/../..\n", {"cpu.max": "400000 100000"}, 4),
        ("4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        (
            "11:memory:/x\n4:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpuacct,cpu:/x\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2),
        ("1:name=systemd:/\n0::/x\n", {"unified/x/cpu.max": "100000 100000"}, 1),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
        ("nonsense", {"cpu.max": "1 1"}, 8),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 8),
        ("0::/\n", {"cpu.max": "\n"}, 8),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, membership: str, files: dict[str, str], expected: int) -> None:
    assert cores_with(tmp_path, membership, files) == expected


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 8


def test_processes_of_a_run_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    assert num_cores() == 8 and num_sharing() == 1
    share_machine(3)
    assert num_cores() == 2 and num_sharing() == 3
    share_machine(100)
    assert num_cores() == 1
