"""What the soak calls growth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from alexnet_fast.check.soak import Sample, grown


def life(number: int, memory: Callable[[int], float], epochs_per_sample: float) -> list[Sample]:
    """A hundred samples."""
    return [
        Sample(2.0 * place, number, memory(place), 10, 9, 12.0, int(place * epochs_per_sample)) for place in range(100)
    ]


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        (lambda place: 400.0, []),
        (lambda place: 400.0 + 40 * (place > 50), []),
        (lambda place: 400.0 + 30 * (place % 2), []),
        (lambda place: 400.0 + place, ["life 0: rss_mb grew"]),
    ],
)
def test_what_rises_from_quarter_to_quarter_grows(memory: Callable[[int], float], found: list[str]) -> None:
    problems = grown(life(0, memory, 3), 1000)
    assert [problem.split(",")[0] for problem in problems] == found


def test_the_first_epochs_on_a_busy_machine_are_not_compared() -> None:
    assert grown(life(0, lambda place: 400.0 + place, 0.1), 1000) == []


def test_a_last_life_that_holds_more_is_found() -> None:
    first, last = life(0, lambda place: 400.0, 3), life(1, lambda place: 550.0, 3)
    assert grown([*first, *last], 1000) == ["the last life holds 550 MB, others 400"]
