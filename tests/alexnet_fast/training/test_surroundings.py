"""Training where people run it: read-only roots, no home, no /tmp, no passwd entry, a tiny /dev/shm, no file locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from alexnet_fast.commands.main import VERBS, main
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.network.model import NETS
from alexnet_fast.runs import lock
from alexnet_fast.runs.checkpoint_manager import lack_of_room
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.lock import InUseError
from alexnet_fast.tools import caches
from alexnet_fast.tools.caches import is_writable, place_caches
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.run import train

SETTINGS = (
    "width_divisor=16", "batch_size=4", "lr_base_batch_size=4", "precision=fp32", "shuffle_buffer=20", "final_views=1",
)  # fmt: skip

CONTAINER = """
set -e
shards=$1 volume=$2 uid=$3; shift 3
mount -t tmpfs tmpfs /mnt
mkdir /mnt/shards /mnt/volume
mount --bind "$shards" /mnt/shards
mount --bind "$volume" /mnt/volume
for place in $(cut -d' ' -f2 /proc/mounts); do
    case $place in /mnt/volume|/proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;; esac
done
mount -t tmpfs -o size=64k tmpfs /dev/shm
umask 077
exec env -u TMPDIR -u XDG_CACHE_HOME -u XDG_CONFIG_HOME HOME=/nonexistent \\
    setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""
"""A container with a read-only root and one writable volume, as a user without a passwd entry."""


def stranger() -> int:
    """A user id without a passwd entry; root's where the interpreter lies in a home that strangers may not read."""
    home = Path(sys.base_prefix).resolve()
    return 54321 if all(folder.stat().st_mode & 0o5 == 0o5 for folder in (home, *home.parents)) else 0


def can_make_containers() -> bool:
    tried = subprocess.run(["unshare", "-m", "setpriv", "--reuid", "54321", "true"], capture_output=True)
    return tried.returncode == 0


def test_one_writable_folder_is_all_that_a_run_needs(tiny_shards: Path, tmp_path: Path) -> None:
    """One process, then two that resume it; figures too, for which matplotlib wants a place for its cache."""
    if not can_make_containers():
        pytest.skip("needs the right to make mount namespaces")
    volume = tmp_path / "volume"
    volume.mkdir()
    user = stranger()
    os.chown(volume, user, user)
    for path in (tiny_shards, *tiny_shards.iterdir()):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "alexnet_fast", "train", "/mnt/shards", *sets]
    command += ["--out", "/mnt/volume/run", "--device", "cpu"]
    contained = ["unshare", "-m", "bash", "-c", CONTAINER, "bash", str(tiny_shards), str(volume), str(user)]
    for more in (["--set", "epochs=1"], ["--set", "epochs=2", "--resume", "--processes", "2"]):
        done = subprocess.run([*contained, *command, *more], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    for name in ("figures/curves.png", "checkpoints/best.pt", "result.json"):
        file = volume / "run" / name
        assert file.stat().st_uid == user and stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_trained_on(
    number: int, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = RunFolder(tmp_path / "run")
    if number == errno.ENOLCK:
        train(tiny_dataset, load_recipe("2013", [*SETTINGS, "epochs=0.3"]), run.path, device="cpu", quiet=True)
        assert run.result.exists() and not run.is_running()
    run.path.mkdir(exist_ok=True)
    with run.lock():
        assert run.is_running()
        with pytest.raises(InUseError, match=rf"in use by process {os.getpid()} on .*or remove .*\.lock"), run.lock():
            pass
    assert not run.is_running()
    looked = iter([True])

    def is_alive(owner: list[str]) -> bool:
        """A second process looks at the same moment as the first."""
        if next(looked, False):
            with pytest.raises(InUseError), run.lock():
                raise AssertionError("not reached")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(lock, "is_alive", is_alive)
        with run.lock():
            pass
    (run.path / ".lock").write_text("2147483647 " + os.uname().nodename)  # of a process that is gone
    with run.lock():
        pass
    (run.path / ".lock").write_text("1 another-machine")
    with pytest.raises(InUseError, match="in use by process 1 on another-machine"), run.lock():
        pass


@pytest.fixture
def no_caches_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(caches, "_placed", set())


@pytest.mark.usefixtures("no_caches_chosen")
def test_caches_move_only_where_their_place_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = [cache.variable for cache in caches.CACHES]
    monkeypatch.setenv("HOME", str(tmp_path))
    place_caches(tmp_path / "fallback")
    place_caches()
    assert {os.environ[name] for name in variables} == {""}
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    chosen = str(tmp_path / "chosen")
    monkeypatch.setenv("TRITON_CACHE_DIR", chosen)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    place_caches()  # the command line
    own = tmp_path / f"alexnet-fast-{os.getuid()}"
    assert [os.environ[name] for name in variables] == [str(own / "matplotlib"), str(own / "numba"), chosen]
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    place_caches(tmp_path / "run")  # training, which has a better place
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "run" / "matplotlib")
    assert os.environ["TRITON_CACHE_DIR"] == chosen
    assert is_writable(tmp_path / "not" / "yet" / "there") and not is_writable(tmp_path / "file" / "there")
    assert not (tmp_path / "not").exists()


@pytest.mark.usefixtures("no_caches_chosen")
def test_a_chosen_place_that_cannot_be_written_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """matplotlib would end the program at the first figure, after the training."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "file" / "there"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    place_caches()
    found = os.environ["MPLCONFIGDIR"]
    assert found == str(tmp_path / f"alexnet-fast-{os.getuid()}" / "matplotlib")
    expected = f"MPLCONFIGDIR is {tmp_path}/file/there, which cannot be written; {found} is used instead."
    assert capsys.readouterr().err == f"alexnet-fast: {expected}\n"
    place_caches(tmp_path / "run")
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "run" / "matplotlib")
    assert capsys.readouterr().err == "" and os.environ["NUMBA_CACHE_DIR"] == ""


@pytest.mark.usefixtures("no_caches_chosen")
def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code would be read from it."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for place in (first, second, third):
        place.mkdir()
    name = f"alexnet-fast-{os.getuid()}"
    (first / name).mkdir()
    (first / name).chmod(0o777)
    (second / name).symlink_to(tmp_path)
    monkeypatch.setattr(caches, "temporary_places", lambda: iter([tmp_path / "none", first, second, third]))
    assert caches.temporary_folder(0) == third / name
    assert caches.temporary_folder(1 << 60) is None


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_finds_places_for_caches_before_it_starts(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr("alexnet_fast.commands.main.place_caches", lambda: called.append("caches"))
    monkeypatch.setattr("alexnet_fast.commands.main.LazyGroup.get_command", lambda *arguments: called.append("command"))
    with pytest.raises((SystemExit, AssertionError)):
        main([verb])
    assert called[:2] == ["caches", "command"]


COMMANDS: dict[str, list[str]] = {
    "preview": ["preview", "/mnt/shards", "--out", "/mnt/volume/preview.png"],
    "predict": ["predict", "/mnt/volume/run", "/mnt/volume/image.png", "--device", "cpu"],
    "report": ["report", "/mnt/volume/run", "--device", "cpu"],
    "features": ["features", "/mnt/volume/run", "/mnt/shards", "--layer", "fc7", "--out", "/mnt/volume/fc7.npy"],
    "compare": ["compare", "/mnt/volume/run", "/mnt/volume/other", "--out", "/mnt/volume/compare.html"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_works_where_only_its_output_can_be_written(
    verb: str, tiny_shards: Path, small_run: Path, tmp_path: Path
) -> None:
    if not can_make_containers():
        pytest.skip("needs the right to make mount namespaces")
    volume = tmp_path / "volume"
    for name in ("run", "other"):
        shutil.copytree(small_run, volume / name)
    Image.new("RGB", (300, 260), "red").save(volume / "image.png")
    user = stranger()
    for path in (volume, *volume.rglob("*")):
        os.chown(path, user, user)
    for path in (tiny_shards, *tiny_shards.iterdir()):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    contained = ["unshare", "-m", "bash", "-c", CONTAINER, "bash", str(tiny_shards), str(volume), str(user)]
    command = [sys.executable, "-m", "alexnet_fast", *COMMANDS[verb]]
    done = subprocess.run([*contained, *command], cwd="/", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_too_small_a_disk_is_reported_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10 * 10**9
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    numbers = 60_965_224 - 10_568  # weights of the full network, without biases
    assert lack_of_room(tmp_path, NETS["167"], 3) is None  # five files of 8 bytes a weight: 2.4 GB
    message = lack_of_room(tmp_path, NETS["167"], 30)
    assert (
        message is not None
        and f"10 GB are free, and this run's checkpoints need {32 * 8 * numbers / 1e9:.2g} GB" in message
    )
