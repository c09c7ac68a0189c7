"""Imports point one way, each package to those below it; sharding needs neither torch nor DALI."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKED = "import sys\nfor name in ('torch', 'nvidia', 'nvidia.dali', 'webdataset'): sys.modules[name] = None\n"


def imports(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FLOORS = (
    "tools",
    "pipelines",
    "network",
    "config",
    "distributed",
    "runs",
    "inference",
    "training",
    "bench",
    "experiments",
    "report",
    "demo",
    "check",
    "commands",
)
"""From the ground up: each package imports only packages below it, and itself."""
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_", "TORCHELASTIC_")


def floor_of(module: str) -> int | None:
    """The floor that a module of ours is on; None: another project's, or what stands beside the packages."""
    parts = module.split(".")
    if parts[0] != "alexnet_fast" or len(parts) < 2 or parts[1] not in FLOORS:
        return None
    return FLOORS.index(parts[1])


def modules() -> dict[str, Path]:
    """Every module of ours by its import name."""
    found = {}
    for file in sorted(ROOT.glob("alexnet_fast/**/*.py")) + sorted(ROOT.glob("pipelines/**/*.py")):
        found[file.relative_to(ROOT)] = file
    for file in sorted(ROOT.glob("tools/**/*.py")):
        found[file.relative_to(ROOT)] = file
    names = {}
    for relative, file in found.items():
        if relative.parts[:2] in (("alexnet_fast", "tools"), ("alexnet_fast", "pipelines")):
            continue  # the links
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        names[name if name.startswith("alexnet_fast") else f"alexnet_fast.{name}"] = file
    return names


def test_every_package_has_a_floor() -> None:
    packages = {name.split(".")[1] for name, file in modules().items() if name.count(".") > 1}
    assert packages <= set(FLOORS)


@pytest.mark.parametrize("name", modules())
def test_imports_go_down(name: str) -> None:
    own = floor_of(name)
    if own is None:
        return
    above = {module for module in imports(modules()[name]) if (floor_of(module) or 0) > own}
    assert not above, f"{name} ({FLOORS[own]}) imports {sorted(above)} above it"


def test_one_module_reads_the_launchers_environment() -> None:
    readers = set()
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if " " not in text and (text in LAUNCHER_VARIABLES or text.startswith(LAUNCHER_VARIABLES[-2:])):
                readers.add(name)
    assert readers == {"alexnet_fast.distributed.torchrun_env"}


def test_tools_know_no_torch_and_no_dali() -> None:
    for file in (ROOT / "tools").rglob("*.py"):
        assert not {module.split(".")[0] for module in imports(file)} & {"torch", "nvidia"}, file


def test_sharding_runs_where_torch_and_dali_are_not(tmp_path: Path) -> None:
    images, shards = tmp_path / "images", tmp_path / "shards"
    code = BLOCKED + (
        "from pathlib import Path\n"
        "from alexnet_fast.demo.data import DemoData, draw_dataset\n"
        "if __name__ == '__main__':\n"
        f"    draw_dataset(Path({str(images)!r}), DemoData(num_train=2, num_val=1))\n"
        "    from alexnet_fast.commands.main import main\n"
        f"    main(['shard', {str(images)!r}, '--out', {str(shards)!r}, '--workers', '1'])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert finished.returncode == 3, finished.stderr  # one image is broken on purpose
    assert (tmp_path / "shards" / "dataset.json").exists()
    for verb in ("info", "verify"):
        code = BLOCKED + f"from alexnet_fast.commands.main import main; main([{verb!r}, {str(tmp_path / 'shards')!r}])"
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr


def test_help_loads_nothing_heavy() -> None:
    code = BLOCKED + "sys.modules['numpy'] = None\nfrom alexnet_fast.commands.main import main; main(['--help'])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "shard" in finished.stdout and "recipes" in finished.stdout
