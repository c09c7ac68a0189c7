"""A few dozen random sources with known truth; `python -m tests.fuzz.sharding` makes a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.sharding import check_tree


@pytest.mark.parametrize("first", range(0, 48, 8))
def test_random_trees(first: int, tmp_path: Path) -> None:
    found = {seed: check_tree(seed, tmp_path / str(seed)) for seed in range(first, first + 8)}
    assert not any(found.values()), found
