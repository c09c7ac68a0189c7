"""The processes of one start find each other, whatever an earlier start left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from time import sleep

import pytest
from torch._C._distributed_c10d import HashStore, Store

from alexnet_fast.distributed.rendezvous import rendezvous
from alexnet_fast.tools.errors import UserError

SHORT = timedelta(seconds=0.3)


def start(store: Store, world_size: int, delays: dict[int, float]) -> list[Store]:
    """What each rank gets; `delays`: seconds that a rank comes late."""

    def rank(number: int) -> Store:
        sleep(delays.get(number, 0))
        return rendezvous(store, number, world_size, timedelta(seconds=20))

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(rank, range(world_size)))


@pytest.mark.parametrize("delays", [{}, {0: 0.2}, {2: 0.2}, {1: 0.1, 2: 0.2}])
def test_every_start_has_a_part_of_its_own(delays: dict[int, float]) -> None:
    store = HashStore()
    for attempt in ("first", "second", "third"):
        parts = start(store, 3, delays)
        for number, part in enumerate(parts):
            assert not part.check([f"address/{number}"])  # nothing of an earlier start
            part.set(f"address/{number}", attempt)
        for part in parts:
            assert [part.get(f"address/{number}").decode() for number in range(3)] == [attempt] * 3


def test_a_start_that_was_cut_short_does_not_mislead_the_next() -> None:
    store = HashStore()
    for lost in (0, 1):  # two of three came and waited, then all were ended
        with ThreadPoolExecutor(2) as pool:
            ranks = [number for number in range(3) if number != lost]
            futures = [pool.submit(rendezvous, store, number, 3, SHORT) for number in ranks]
            for future in futures:
                with pytest.raises(UserError, match=r"of 3 waited 0 s for the others"):
                    future.result()
    parts = start(store, 3, {0: 0.1})
    parts[0].set("who", "us")
    assert all(part.get("who") == b"us" for part in parts)


def test_another_number_of_processes_meets_in_the_same_store() -> None:
    store = HashStore()
    for world_size in (4, 2, 3, 1):
        parts = start(store, world_size, {0: 0.05})
        assert not parts[-1].check(["who"])
        parts[0].set("who", "us")
        assert parts[-1].get("who") == b"us"
