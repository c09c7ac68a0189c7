"""Nearest neighbors against comparing everything with everything in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.inference import neighbors as module
from alexnet_fast.inference.neighbors import nearest
from alexnet_fast.tools.errors import UsageError


@pytest.mark.parametrize("block", [7, 64, 10_000])
def test_neighbors_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    random = np.random.default_rng(0)
    base = random.standard_normal((500, 32)).astype(np.float16)
    queries = random.standard_normal((9, 32)).astype(np.float32)
    every = np.sqrt(((queries[:, None].astype(np.float64) - base[None].astype(np.float64)) ** 2).sum(2))
    expected = np.argsort(every, axis=1, kind="stable")[:, :6]
    distances, rows = nearest(queries, base, 6)
    assert rows.tolist() == expected.tolist()
    np.testing.assert_allclose(distances, np.take_along_axis(every, expected, 1), rtol=1e-12)


def test_close_neighbors_far_from_zero_keep_their_order(tmp_path: Path) -> None:
    """|a|² − 2ab + |b|² in float32 loses such distances; out of a file on the disk."""
    base = np.full((40, 16), 1000.0) + np.arange(40)[:, None] * 1e-2
    np.save(tmp_path / "base.npy", base.astype(np.float32))
    distances, rows = nearest(base[10:11], np.load(tmp_path / "base.npy", mmap_mode="r"), 3)
    assert rows[0, 0] == 10 and sorted(rows[0].tolist()) == [9, 10, 11]
    assert distances[0, 0] < 1e-3


def test_rows_without_an_image_are_no_neighbors() -> None:
    base = np.zeros((5, 3), np.float32)
    base[1:3] = np.nan
    _, rows = nearest(np.ones((1, 3)), base, 3)
    assert rows.tolist() == [[0, 3, 4]]
    with pytest.raises(UsageError, match="3 rows can be compared with; 4 neighbors were asked for"):
        nearest(np.ones((1, 3)), base, 4)
    with pytest.raises(UsageError, match="take the same layer"):
        nearest(np.ones((1, 4)), base, 1)
