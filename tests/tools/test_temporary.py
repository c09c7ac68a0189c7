"""Where nothing can be written for a time, commands that need it say so."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.temporary import temporary_folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only root: no usual place for temporary files is a folder."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])


def test_a_folder_lasts_as_long_as_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError), temporary_folder("trial") as folder:
        assert folder.parent == tmp_path and folder.name.startswith("alexnet-fast-trial-")
        (folder / "file").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nowhere")
def test_no_place_is_named_with_what_to_do() -> None:
    said = r"^temporary files cannot be written \(No usable .*\)\. Set TMPDIR"
    with pytest.raises(UserError, match=said), temporary_folder("trial"):
        pass


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("words", [["check", "--quick"], ["bench", "loader", "--device", "cpu"]], ids=" ".join)
def test_commands_say_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    assert "temporary files cannot be written" in capsys.readouterr().err
