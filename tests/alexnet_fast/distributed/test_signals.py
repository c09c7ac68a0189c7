"""Signals: the first asks, a second Ctrl-C ends; what was ignored stays ignored."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_fast.cli import main
from alexnet_fast.distributed.signals import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The process's own, back in place afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def asked(interruption: Interruption) -> bool:
    """By a function, since a signal changes it behind the type checker's back."""
    return interruption.asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_for_a_good_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not asked(interruption)
        signal.raise_signal(number)
        assert asked(interruption)
        signal.raise_signal(signal.SIGTERM)  # impatient clusters
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_was_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Interruption() as interruption:
        signal.raise_signal(number)
        assert not asked(interruption)
        signal.raise_signal(signal.SIGTERM)
        assert asked(interruption)
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("present", "words"),
    [
        ((), "stopped before the training had begun; nothing was written"),
        (("recipe.toml",), "before a checkpoint was saved"),
        (("recipe.toml", "checkpoints/step-00000003.pt"), "--device cpu` goes on from the last checkpoint"),
    ],
)
def test_an_early_ctrl_c_gets_a_sentence(
    present: tuple[str, ...],
    words: str,
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    for name in present:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr("alexnet_fast.training.run.train", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tiny_shards), "--out", str(tmp_path), "--device", "cpu"])
    told = capsys.readouterr().err
    assert ended.value.code == 1 and words in told and "Aborted" not in told


def test_the_first_ctrl_c_is_answered_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption("Finishing.") as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert capfd.readouterr().err == ""
    with Interruption("Finishing.") as interruption:
        signal.raise_signal(signal.SIGINT)
        assert asked(interruption) and capfd.readouterr().err == "\nFinishing.\n"
