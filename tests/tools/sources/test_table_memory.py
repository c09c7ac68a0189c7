"""The list of images stays in columns: 14 M images are 1.4 GB, and copies of columns or objects would double them."""

from __future__ import annotations

import tracemalloc

import pytest

from alexnet_fast.tools.sharding.plan import Plan, ShardOptions
from alexnet_fast.tools.sources.table import ClassName, Source, TableBuilder

IMAGES = 50_000
LIMIT = 70


@pytest.mark.parametrize("in_tars", [True, False])
def test_a_plan_takes_few_bytes_for_an_image_beside_its_names(in_tars: bool) -> None:
    tracemalloc.start()
    try:
        builder = TableBuilder("/nowhere", ("train.tar",))
        for number in range(IMAGES):
            name = b"n%08d/n%08d_%d.JPEG" % (number % 100, number % 100, number)
            if in_tars:
                builder.add_member(0, number % 100, 0, name, 10**9 + number, 110_000)
            else:
                builder.add(0, number % 100, name, 110_000)
        table = builder.finish()
        classes = tuple(ClassName(f"n{number:08d}", "") for number in range(100))
        plan = Plan(Source("folders", "", classes, ("train",), table), ShardOptions())
        assert plan.identity["images"] == IMAGES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    names = sum(len(table.origin_bytes(number)) + len(table.stem(number)) for number in range(IMAGES))
    # 25 bytes of columns and 16 of where names end, with a growing array's reserve; the rest while names are compared.
    assert (peak - names) / IMAGES < LIMIT
