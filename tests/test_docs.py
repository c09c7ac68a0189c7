"""README and docs: every command exists and runs, every Python block runs, every link leads somewhere.

Commands run on a small data set, with a small network for one epoch.  Those that take minutes (SLOW), and those about
files that are not there, are checked for their options only; `make docs` sets ALEXNET_FAST_DOCS=all and runs the slow
ones too.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from alexnet_fast.commands.main import VERBS, group, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = ("README.md", "docs/python.md", "docs/imagenet.md")
"""Pages whose commands must all be run, but for SLOW ones."""
SLOW = ("bench", "check", "demo", "experiment")
ALL = os.environ.get("ALEXNET_FAST_DOCS") == "all"
OTHERS = frozenset(
    ("tensorboard", "torchrun", "sbatch", "srun", "squeue", "docker", "podman", "cd", "export", "cat", "python3", "tar",
     "scp", "rsync", "ssh", "git", "nvidia-smi", "apt", "sudo", "mkdir", "curl", "pipx", "kill", "ls")
)  # fmt: skip
"""Programs of others; what they would do is not ours to try."""
SMALL = ["--set", "width_divisor=16", "--set", "precision=fp32", "--set", "final_views=1"]
SMALL += ["--batch-size", "8", "--epochs", "1"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *kinds: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind in kinds]


def commands(page: Path) -> list[list[str]]:
    """The words of every command line in the page's sh blocks, without comments and without what follows a pipe."""
    found = []
    for block in blocks(page, "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            for end in ("|", "&&", ">", ">>", "2>&1", "&", ";"):
                words = words[: words.index(end)] if end in words else words
            if words:
                found.append(words)
    return found


def ours(page: Path) -> list[list[str]]:
    """Those of this program, from the verb on."""
    found = []
    for words in commands(page):
        if words[0].rpartition("/")[2] == "alexnet-fast":
            found.append(words[1:])
        elif words[1:3] == ["-m", "alexnet_fast"]:
            found.append(words[3:])
    return found


@pytest.fixture(scope="module")
def workplace(tiny_shards: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files that the pages speak of, and the working directory among them."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "shards").symlink_to(tiny_shards)
    for name in ("imagenet", "photos"):
        shutil.copytree(tiny_shards.parent / "images", folder / name)
    shutil.rmtree(folder / "photos" / "val")
    for name in ("2012", "2013", "demo", "short"):
        shutil.copytree(small_run, folder / "runs" / name)
    shutil.copyfile(next((folder / "imagenet" / "val" / "star").glob("*2.JPEG")), folder / "photo.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def prepared(words: list[str], workplace: Path, number: str) -> list[str] | None:
    """The command on what is there; None where it speaks of files that are not."""
    words = [word.replace("/path/imagenet", str(workplace / "imagenet")) for word in words]
    verb = words[0]
    positional = [word for word in words[1:] if not word.startswith("-")]
    if any(word.isupper() or "…" in word for word in positional) or (words[1:2] == ["photos"] and "--help" in words):
        return None
    parsed = group.get_command(click.Context(group), verb)
    assert parsed is not None
    context = parsed.make_context(verb, words[1:], resilient_parsing=True)
    for parameter in parsed.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument) and parameter.name not in ("name",):
            given = value if isinstance(value, tuple) else (value,)
            for one in given:
                known = one is None or Path(str(one)).exists() or str(one) in ("loader", "model", "train", "all")
                if not known and "=" not in str(one):
                    return None
    if verb == "shard":
        out = f"made-{number}"
        return [*words, "--out", out]
    if verb == "train":
        kept = list(words)
        if "--resume" in kept:  # each begins a run of its own
            place = kept.index("--resume")
            named = place + 1 < len(kept) and not kept[place + 1].startswith("-")
            del kept[place : place + 1 + named]
        gpus = [place for place, word in enumerate(kept) if word == "--gpus"]
        if gpus and not torch.cuda.is_available():
            del kept[gpus[0] : gpus[0] + 2]
        return [*kept, *SMALL, "--out", f"runs/made-{number}"]
    if verb == "bench":
        return [*words, "--batch-size", "8"]
    if words[:2] == ["experiment", "ablations"]:
        small = [*SMALL[:2], "--set", "batch_size=8", "--set", "lr_base_batch_size=8", "--set", "final_views=1"]
        return [*words, "--epochs", "1", "--seeds", "1", *small, "--out", f"experiments/made-{number}"]
    return None if verb == "experiment" else words  # the others need CIFAR-10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.timeout(1800)
def test_commands_run(page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, words in enumerate(ours(page)):
        if not words or words[0].startswith("-"):
            continue
        verb, *rest = words
        assert verb in VERBS, f"{page.name}: there is no command {verb}"
        program = group.get_command(click.Context(group), verb)
        assert program is not None
        program.make_context(verb, list(rest), resilient_parsing=False) if "--help" not in rest else None
        ready = prepared(words, workplace, f"{page.stem}-{number}")
        if verb in SLOW and not ALL:
            continue
        if ready is None:
            assert str(page.relative_to(ROOT)) not in OWN, f"{page.name}: `{shlex.join(words)}` is about unknown files"
            continue
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(ready)
        out, err = capsys.readouterr()
        # 3: one of the drawn images is broken on purpose
        assert ended.value.code in (None, 0, 3), f"{page.name}: {shlex.join(ready)}\n{err}"
        if verb == "recipes" and len(words) > 1:
            (workplace / "mine.toml").write_text(out)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_commands_are_possible(page: Path) -> None:
    """make's targets exist, pip's files and extras too; others' programs are known by name."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for words in commands(page):
        program = words[0].rpartition("/")[2]
        if program == "make":
            assert set(words[1:]) <= targets, words
        elif program == "pip":
            for place, word in enumerate(words):
                if words[place - 1] in ("-c", "--constraint"):
                    assert (ROOT / word).is_file(), words
            for names in re.findall(r"\[([\w,]+)\]", " ".join(words)):
                assert set(names.split(",")) <= extras, words
        elif program == "pre-commit":
            assert (ROOT / ".pre-commit-config.yaml").is_file()
        elif program == "python":
            assert words[1] == "-m" or (ROOT / words[1]).is_file(), words
        else:
            assert program in {"alexnet-fast", *OTHERS}, f"{page.name}: {shlex.join(words)}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_blocks_run(page: Path, workplace: Path) -> None:
    """In order, in one namespace, as a reader would type them."""
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


def test_the_loop_of_python_md_runs_on_two_ranks(workplace: Path) -> None:
    """The same blocks, started as torchrun does: each rank has its part of the epoch."""
    found = blocks(ROOT / "docs" / "python.md", "python")
    needed = [block for block in found if "class Block" in block or "DistributedDataParallel" in block]
    assert len(needed) == 2
    (workplace / "ranks.py").write_text("\n".join(needed))
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "ranks.py"],
            env={**environment, "RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert f"rank {rank} of 2: 3 batches" in out


def free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_the_readme_is_short_and_names_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text, f"README does not name {page.name}"


def test_every_extra_is_in_the_readme() -> None:
    text, project = (ROOT / "README.md").read_text(), (ROOT / "pyproject.toml").read_text()
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    for extra in re.findall(r"^(\w+) = \[", section, re.MULTILINE):
        assert f"`{extra}`" in text, extra


def test_numbers_of_the_readme_are_recorded() -> None:
    """The measured rates stand in benchmarks/, in a record or the log."""
    recorded = "".join(file.read_text() for file in (ROOT / "benchmarks").rglob("*") if file.suffix in (".md", ".json"))
    rates = {f"{float(number):,.0f}" for number in re.findall(r'"rate": ([\d.]+)', recorded)}
    table = (ROOT / "README.md").read_text().partition("## Measured")[2].partition("\n![")[0]
    for number in re.findall(r"(?<![\w.])\d[\d,]*\d(?:\.\d+)?", table):
        if number not in ("61", "12", "512", "16", "90"):
            assert number in recorded or number in rates or number.replace(",", "") in recorded, number


def test_the_pixels_of_the_example_are_an_image() -> None:
    """The headline image is there, wide enough to be read."""
    from PIL import Image

    assert np.asarray(Image.open(ROOT / "docs" / "preview.jpg")).shape[1] >= 900
