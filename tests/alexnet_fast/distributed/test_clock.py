"""Times between marks: the host's on a CPU, of one stream on a GPU (by stand-ins for torch's events)."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from alexnet_fast.distributed import clock
from alexnet_fast.distributed.clock import EventClock, HostClock, clock_of


class Event:
    """Reached at a time that the test sets, in the order in which events are recorded."""

    made: list[Event]
    times: list[float]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.waited = 0
        Event.made.append(self)

    def record(self) -> None:
        """On the current stream: no other one was given."""
        self.milliseconds = Event.times.pop(0)

    def synchronize(self) -> None:
        self.waited += 1

    def elapsed_time(self, later: Event) -> float:
        return later.milliseconds - self.milliseconds


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> type[Event]:
    monkeypatch.setattr(Event, "made", [], raising=False)
    monkeypatch.setattr(Event, "times", [1.0, 3.0, 10.0], raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    # It would wait for what DALI decodes ahead too.
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: pytest.fail("the whole device was waited for"))
    return Event


def test_a_gpus_clock_waits_for_its_last_event_alone(events: type[Event]) -> None:
    found = clock_of(torch.device("cuda", 0))
    assert isinstance(found, EventClock) and found.between() == []
    for _ in range(3):
        found.mark()
    assert found.between() == pytest.approx([0.002, 0.007])
    assert [event.waited for event in events.made] == [0, 0, 1]


def test_the_host_gets_ahead_of_a_gpu_by_some_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[int] = []
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    EventClock().lead()
    assert slept == [clock.LEAD_CYCLES] and 10 <= 1e3 * slept[0] / 2e9 <= 50


def test_a_cpus_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times: Any = iter([5.0, 5.5, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    found = clock_of(torch.device("cpu"))
    found.lead()
    for _ in range(3):
        found.mark()
    assert isinstance(found, HostClock) and found.between() == [0.5, 1.5]
