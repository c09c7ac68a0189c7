"""The Slurm script in a made-up cluster, and the container file's steps: what people run and no test machine has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from alexnet_fast.runs.checkpoint import saved_checkpoints

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "docs" / "deploy" / "train.slurm"
CONTAINERFILE = ROOT / "docs" / "deploy" / "Containerfile"

COMMANDS = {
    "scontrol": """
if [ "$1 $2" = "show hostnames" ]; then echo node1; echo node2; else echo "$@" >> "$CLUSTER/scontrol"; fi
""",
    # Its own options end at the first word that is none; then it becomes what it starts, and can be signaled.
    "srun": """
while [[ $1 == -* ]]; do shift; done
echo $$ > "$CLUSTER/task"
exec "$@"
""",
    "torchrun": """
echo "$@" >> "$CLUSTER/torchrun"
while [ "$1" != -m ]; do shift; done
exec "$CLUSTER/train" "${@:2}"
""",
}
"""What Slurm and torchrun are here: one process, on this machine."""


class Cluster:
    """A node of it; `train` is what torchrun starts."""

    def __init__(self, folder: Path, train: str) -> None:
        self.folder, self.run = folder, folder / "run"
        (folder / "bin").mkdir(parents=True)
        for name, text in {**{f"bin/{name}": text for name, text in COMMANDS.items()}, "train": train}.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}")
            (folder / name).chmod(0o755)

    def start(self, *options: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CLUSTER": str(self.folder), "SLURM_NNODES": "2",
            "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "4",
        }  # fmt: skip
        command = ["bash", str(SCRIPT), "a folder", str(self.run), *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def job(self, *options: str) -> tuple[int, str]:
        """(exit status, standard error) of a job that runs to its end."""
        process = self.start(*options)
        _, errors = process.communicate(timeout=100)
        return process.returncode, errors

    def said(self, command: str) -> list[str]:
        """How a command was called, line by line."""
        file = self.folder / command
        return file.read_text().splitlines() if file.exists() else []


def options_of(directive: str, text: str) -> dict[str, str]:
    """`#SBATCH --name=value` lines."""
    return dict(re.findall(rf"^{directive} --([\w-]+)=?(.*)$", text, re.MULTILINE))


def test_the_script_is_one_that_bash_and_slurm_read() -> None:
    checked = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    text = SCRIPT.read_text()
    options = options_of("#SBATCH", text)
    # One torchrun a node; the signal goes to the steps, not to the script, which still has to requeue the job.
    assert options["ntasks-per-node"] == "1" and "requeue" in options
    name, seconds = options["signal"].split("@")
    assert name == "TERM" and int(seconds) >= 120
    first_command = next(line for line in text.splitlines() if line and not line.startswith("#"))
    assert text.rindex("#SBATCH") < text.index(first_command)  # Slurm reads none behind it
    if shutil.which("shellcheck"):
        found = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout


SAVES = 'mkdir -p "$5/checkpoints"; touch "$5/recipe.toml"'
"""As `train` begins; $5 is --out's."""


@pytest.mark.parametrize(
    ("train", "status", "requeued"),
    [
        (f'{SAVES}; touch "$5/checkpoints/step-00000007.pt"; exit 143', 0, True),
        (f'{SAVES}; touch "$5/checkpoints/step-00000007.pt" "$5/result.json"', 0, False),
        (f"{SAVES}; exit 1", 1, False),  # before anything was saved
        ("exit 2", 2, False),  # wrong use
    ],
    ids=["stopped", "done", "nothing saved", "refused"],
)
def test_a_job_is_requeued_where_it_saved_something_and_is_not_done(
    tmp_path: Path, train: str, status: int, requeued: bool
) -> None:
    cluster = Cluster(tmp_path, train)
    assert cluster.job("--set", "lr_weights=[0.1, 0.2]")[0] == status
    assert cluster.said("scontrol") == (["requeue 77"] if requeued else [])
    (called,) = cluster.said("torchrun")
    assert called.startswith("--nnodes 2 --nproc-per-node 4 --max-restarts 0 --rdzv-backend c10d --rdzv-id 77")
    assert "--rdzv-endpoint node1:29500 -m alexnet_fast train a folder --out" in called
    assert called.endswith("--set lr_weights=[0.1, 0.2]") and "--resume" not in called


def test_a_run_that_saves_nothing_new_is_not_requeued_for_ever(tmp_path: Path) -> None:
    """One that diverged, say: it would stop at the same step each time."""
    cluster = Cluster(tmp_path, f'{SAVES}; touch "$5/checkpoints/step-00000007.pt"; exit 1')
    assert cluster.job()[0] == 0 and cluster.said("scontrol") == ["requeue 77"]
    assert cluster.job()[0] == 1 and cluster.said("scontrol") == ["requeue 77"]
    assert "--resume" in cluster.said("torchrun")[1]


def test_arguments_that_are_missing_are_named(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode != 0 and "give a shards folder and a run folder" in done.stderr


def test_a_signal_before_the_time_limit_saves_and_the_next_job_resumes(tiny_shards: Path, tmp_path: Path) -> None:
    """By torchrun itself, on one node: Slurm signals the agent, which passes it on and then ends with 1."""
    sets = "width_divisor=16 batch_size=4 lr_base_batch_size=4 precision=fp32 shuffle_buffer=20 final_views=1"
    words = " ".join(f"--set {setting}" for setting in [*sets.split(), "epochs=3"])
    python, shards = shlex.quote(sys.executable), shlex.quote(str(tiny_shards))
    # $1 to $5: alexnet_fast train "a folder" --out run
    cluster = Cluster(
        tmp_path,
        f"exec {python} -m torch.distributed.run --standalone --nproc-per-node 1 --max-restarts 0 "
        f'-m alexnet_fast train {shards} --out "$5" --device cpu {words} "${{@:6}}"\n',
    )
    with cluster.start() as first:
        metrics = cluster.run / "metrics.jsonl"
        end = time.monotonic() + 200
        while not (metrics.exists() and '"kind": "train"' in metrics.read_text()):
            assert first.poll() is None and time.monotonic() < end, first.communicate()[1]
            time.sleep(0.05)
        os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)
        _, errors = first.communicate(timeout=100)
    assert first.returncode == 0, errors
    assert "stopped by SIGTERM" in errors and cluster.said("scontrol") == ["requeue 77"]
    assert saved_checkpoints(cluster.run / "checkpoints") and not (cluster.run / "result.json").exists()
    status, errors = cluster.job()
    assert status == 0, errors
    assert json.loads((cluster.run / "result.json").read_text())["epochs"] == 3
    assert "--resume" in cluster.said("torchrun")[1] and cluster.said("scontrol") == ["requeue 77"]


# ------------------------------------------------------------------------------ container


def steps(instruction: str) -> list[list[str]]:
    """The arguments of every such instruction of the container file."""
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    return [line.split()[1:] for line in text.splitlines() if line.split()[:1] == [instruction]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the container's `pip install .` builds it: from what is copied there, and nothing else."""
    pytest.importorskip("build")
    context, site = (tmp_path_factory.mktemp(name) for name in ("context", "site"))
    for *sources, target in steps("COPY"):
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, context / target, symlinks=True)
            else:
                shutil.copy(ROOT / source, context / target)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(context / "dist")]
    built = subprocess.run([*command, str(context)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    zipfile.ZipFile(next((context / "dist").glob("*.whl"))).extractall(site)
    return site


def test_any_user_can_write_a_volume_that_has_no_owner_yet(tmp_path: Path) -> None:
    """Docker and podman give a named or anonymous volume the mode and the owner of the image's folder."""
    text = CONTAINERFILE.read_text()
    made, volume = text.index("RUN mkdir --mode 1777 /data\n"), text.index("VOLUME /data\n")
    assert made < volume  # later changes of a volume's folder are discarded
    (command,) = (words for words in steps("RUN") if words[-1] == "/data")
    subprocess.run([*command[:-1], str(tmp_path / "data")], check=True)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o1777


def test_the_container_runs_as_anybody_with_a_read_only_root(
    installed: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    """Its environment, a user without a passwd entry, and one writable folder, which is /data there."""
    from tests.alexnet_fast.training.test_surroundings import CONTAINER, can_make_containers, stranger

    if not can_make_containers():
        pytest.skip("needs the right to make mount namespaces")
    (user,) = steps("USER")
    assert user == ["65534:65534"]  # nobody in particular; `docker run --user` gives another one
    volume, uid = tmp_path / "volume", stranger()
    volume.mkdir()
    os.chown(volume, uid, uid)
    for path in (installed, *installed.rglob("*"), tiny_shards, *tiny_shards.iterdir()):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    for folder in installed.parents:
        if folder.stat().st_uid == os.getuid() and folder.name.startswith(("pytest-", "popen-", "site")):
            folder.chmod(folder.stat().st_mode | 0o055)
    variables = [word.replace("/data", "/mnt/volume") for word in steps("ENV")[0]]
    assert {"HOME=/mnt/volume", "XDG_CACHE_HOME=/mnt/volume/.cache"} <= set(variables)
    contained = ["unshare", "-m", "bash", "-c", CONTAINER, "bash", str(tiny_shards), str(volume), str(uid), "env"]
    script = (
        "import os, sys, alexnet_fast; from alexnet_fast.commands.main import main; "
        "assert alexnet_fast.__file__.startswith(sys.path[0]), alexnet_fast.__file__; "
        "assert not os.access('/', os.W_OK); main(['preview', '/mnt/shards', '--out', '/mnt/volume/preview.png'])"
    )
    start = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {script}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*contained, *variables, *start], env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    made = (volume / "preview.png").stat()
    assert made.st_uid == uid and stat.S_ISREG(made.st_mode)
