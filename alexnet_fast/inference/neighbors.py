"""Nearest neighbors by Euclidean distance of features, as in Figure 4 of the paper, by blocked matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alexnet_fast.tools.errors import UsageError

Array = npt.NDArray[Any]

BLOCK = 8192
"""Rows of the base that are compared at a time: 128 MB of 4,096 float32."""
SPARE = 8
"""Candidates beyond `count` that are compared exactly: float32 products lose digits where distances are small."""


def nearest(
    queries: Array, base: Array, count: int, *, device: torch.device | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(distances, rows of `base`), each (Q, count), nearest first; equal distances by row.

    queries: (Q, D); base: (N, D), also a memory-mapped array larger than memory, read once.  Rows with NaN are never
    neighbors.  Raises UsageError where fewer than `count` rows are left, or where the widths differ.
    """
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1]:
        raise UsageError(f"features of shapes {queries.shape} and {base.shape} cannot be compared: take the same layer")
    device = device if device is not None else torch.device("cpu")
    # Distances do not change if everything is moved; squares of numbers near zero keep more digits.
    center = np.asarray(queries, dtype=np.float64).mean(0)
    asked = torch.from_numpy((queries - center).astype(np.float32)).to(device)
    kept = min(count + SPARE, len(base))
    best = torch.full((len(queries), kept), torch.inf, device=device)
    rows = torch.zeros((len(queries), kept), dtype=torch.int64, device=device)
    for start in range(0, len(base), BLOCK):
        block = torch.from_numpy((base[start : start + BLOCK] - center).astype(np.float32)).to(device)
        squares = (block * block).sum(1) - 2 * (asked @ block.T)  # plus the query's own square, the same for all
        squares = squares.nan_to_num(nan=torch.inf)
        places = torch.arange(start, start + len(block), device=device).expand_as(squares)
        best, chosen = torch.cat([best, squares], 1).topk(kept, largest=False)
        rows = torch.cat([rows, places], 1).gather(1, chosen)
    candidates, finite = rows.cpu().numpy(), best.isfinite().cpu().numpy()
    if (finite.sum(1) < count).any():
        raise UsageError(f"{int(finite.sum(1).min())} rows can be compared with; {count} neighbors were asked for")
    return exact(queries, base, candidates, finite, count)


def exact(
    queries: Array, base: Array, candidates: npt.NDArray[np.int64], finite: npt.NDArray[np.bool_], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The nearest `count` of each query's candidates by float64 distances."""
    distances = np.empty((len(queries), count))
    rows = np.empty((len(queries), count), dtype=np.int64)
    for place, (query, own) in enumerate(zip(queries, candidates, strict=True)):
        own = np.sort(own[finite[place]])
        apart = np.asarray(base[own], dtype=np.float64) - np.asarray(query, dtype=np.float64)
        length = np.sqrt((apart**2).sum(1))
        order = np.argsort(length, kind="stable")[:count]
        distances[place], rows[place] = length[order], own[order]
    return distances, rows
