"""What is installed: one top-level package, with its data, whole without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from alexnet_fast import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built out of the source distribution, as pip does."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return next(folder.glob("*.whl"))


def test_the_version_is_the_same_everywhere() -> None:
    """The tag of a release is v and this version: CONTRIBUTING.md."""
    (project,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    heading = re.search(r"^## (.+), (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    assert project == __version__ == heading[1]


def test_only_our_package_is_installed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"alexnet_fast"}
    for file in (
        "py.typed",
        "tools/sources/imagenet_classes.tsv",
        "tools/sources/ilsvrc2012_val_labels.txt",
        "config/recipes/2013.toml",
        "config/recipes/demo.toml",
        "tools/sharding/shard.py",
        "pipelines/loader.py",
        "network/kernels/norms.py",
        "commands/train_command.py",
    ):
        assert f"alexnet_fast/{file}" in names, file
    assert not [name for name in names if "tests/" in name or name.startswith("benchmarks")]


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (
        ("alexnet_fast", "alexnet_fast"),
        *((room, f"alexnet_fast/{room}") for room in ("tools", "pipelines")),
    ):
        for file in (ROOT / folder).rglob("*.py"):
            relative = file.relative_to(ROOT / folder)
            if folder == "alexnet_fast" and relative.parts[0] in ("tools", "pipelines"):
                continue  # the links
            assert f"{package}/{relative.as_posix()}" in names


def test_the_source_distribution_is_whole(wheel: Path) -> None:
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "tools/sharding/shard.py", "pipelines/loader.py"} <= names


def test_the_wheel_runs_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import alexnet_fast; assert alexnet_fast.__file__.startswith(sys.argv[1])\n"
        "from alexnet_fast.commands.main import main; main(['recipes', '2012'])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert 'network = "145"' in finished.stdout
