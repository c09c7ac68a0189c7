"""Signals: the first asks, a second Ctrl-C ends; what was ignored stays ignored."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_fast.commands.main import main
from alexnet_fast.distributed.signals import SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The process's own, back in place afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def received(stop: StopSignals) -> signal.Signals | None:
    """By a function, since a signal changes it behind the type checker's back."""
    return stop.received


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_for_a_good_end(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.distributed.signals.SAME_SECONDS", 0.0)
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert received(stop) is None
        signal.raise_signal(number)
        assert received(stop) == number
        signal.raise_signal(signal.SIGTERM)  # impatient clusters
        assert received(stop) == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_two_quick_signals_are_one() -> None:
    """`timeout -s INT` signals the process, and then its group."""
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert received(stop) == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_was_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with StopSignals() as stop:
        signal.raise_signal(number)
        assert received(stop) is None
        signal.raise_signal(signal.SIGTERM)
        assert received(stop) == signal.SIGTERM
    assert signal.getsignal(number) == signal.SIG_IGN


def test_whoever_waits_for_several_things_hears_of_a_signal() -> None:
    with StopSignals() as stop:
        assert stop.reader is not None and select.select([stop.reader], [], [], 0)[0] == []
        signal.raise_signal(signal.SIGUSR1)
        assert select.select([stop.reader], [], [], 10)[0] == [stop.reader]
    assert stop.reader is None


@pytest.mark.parametrize(
    ("present", "code", "words"),
    [
        ((), 130, "stopped before the training had begun; nothing was written"),
        (("recipe.toml",), 1, "before a checkpoint was saved"),
        (("recipe.toml", "checkpoints/step-00000003.pt"), 1, "checkpoints:\n  alexnet-fast train {run} --resume"),
    ],
)
def test_an_early_ctrl_c_gets_a_clear_message(
    present: tuple[str, ...],
    code: int,
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
    message = capsys.readouterr().err
    assert ended.value.code == code and words.replace("{run}", str(tiny_shards)) in message and "Aborted" not in message


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_answered_at_once_and_only_once(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with StopSignals("Finishing.") as stop:
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert received(stop) == number
    assert capsys.readouterr().err == "\nFinishing.\n"


def test_a_signal_that_asks_for_no_stop_is_not_answered(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGWINCH, lambda number, frame: None)  # as a progress bar may
    try:
        with StopSignals("Finishing.") as stop:
            signal.raise_signal(signal.SIGWINCH)
            assert received(stop) is None
    finally:
        signal.signal(signal.SIGWINCH, before)
    assert capsys.readouterr().err == ""


def test_a_broken_standard_error_costs_neither_the_flag_nor_the_hint_s_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as broken:
        monkeypatch.setattr("sys.stderr", broken)
        with StopSignals("Finishing.") as stop:
            signal.raise_signal(signal.SIGINT)
            assert received(stop) == signal.SIGINT
        monkeypatch.undo()
        with contextlib.suppress(BrokenPipeError):
            broken.close()
