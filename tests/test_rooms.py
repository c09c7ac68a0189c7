"""The rooms' doors: imports go one way, and sharding needs neither torch nor DALI."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"tools": ROOT / "tools", "pipelines": ROOT / "pipelines"}
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


def room_of(module: str) -> str | None:
    """The room that a module of ours is in."""
    parts = module.split(".")
    if parts[0] != "alexnet_fast":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "alexnet_fast"


@pytest.mark.parametrize(("room", "allowed"), [("tools", {"tools"}), ("pipelines", {"tools", "pipelines"})])
def test_imports_go_one_way(room: str, allowed: set[str]) -> None:
    files = list(ROOMS[room].rglob("*.py"))
    assert len(files) > 10
    for file in files:
        # `from alexnet_fast import tools` names the package itself on the way.
        modules = {module for module in imports(file) if module not in ("alexnet_fast", "alexnet_fast.__version__")}
        rooms = {room_of(module) for module in modules} - {None}
        assert rooms <= allowed, (
            f"{file} imports {sorted(module for module in modules if room_of(module) not in allowed)}"
        )


def test_tools_know_no_torch_and_no_dali() -> None:
    for file in ROOMS["tools"].rglob("*.py"):
        assert not {module.split(".")[0] for module in imports(file)} & {"torch", "nvidia"}, file


def test_sharding_runs_where_torch_and_dali_are_not(tmp_path: Path) -> None:
    pictures, shards = tmp_path / "pictures", tmp_path / "shards"
    code = BLOCKED + (
        "from pathlib import Path\n"
        "from alexnet_fast.demo_data import DemoData, draw_dataset\n"
        "if __name__ == '__main__':\n"
        f"    draw_dataset(Path({str(pictures)!r}), DemoData(num_train=2, num_val=1))\n"
        "    from alexnet_fast.cli import main\n"
        f"    main(['shard', {str(pictures)!r}, '--out', {str(shards)!r}, '--workers', '1'])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert finished.returncode == 3, finished.stderr  # one picture is broken on purpose
    assert (tmp_path / "shards" / "dataset.json").exists()
    for verb in ("info", "verify"):
        code = BLOCKED + f"from alexnet_fast.cli import main; main([{verb!r}, {str(tmp_path / 'shards')!r}])"
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr


def test_help_loads_nothing_heavy() -> None:
    code = BLOCKED + "sys.modules['numpy'] = None\nfrom alexnet_fast.cli import main; main(['--help'])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "shard" in finished.stdout and "recipes" in finished.stdout
