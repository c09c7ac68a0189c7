"""The update, conv1's folded input and dropout as compiled loops, one pass over memory each; what a CPU runs."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from alexnet_fast.network.kernels.numba_arithmetic import narrow, widen
from alexnet_fast.tools.compilation import compiled, part

F32 = np.float32
U32 = np.uint32
BLOCK = 1024
"""Numbers of the update at a time: what it computes in between stays in the nearest cache."""
STRIDE = 4
"""Of conv1."""


@compiled
def update(w, v, g, working, first, last, slope, fade, momentum, copied):
    """v ← momentum·v − slope·g − fade·w;  w ← w + v;  working ← w (if copied), for numbers first..last−1.

    w, v: float32; g and working: float32, or bfloat16 as uint16.
    """
    room = np.empty(BLOCK, F32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        ws, vs = w[start:stop], v[start:stop]
        widen(g[start:stop], room[: stop - start])
        for i in range(stop - start):
            change = momentum * vs[i] - slope * room[i] - fade * ws[i]
            vs[i] = change
            ws[i] += change
            room[i] = ws[i]
        if copied:
            narrow(room, working[start:stop])


@compiled
def fold(images, folded, first, last):
    """Images first..last−1: each 4×4 square of pixels becomes one pixel of 48 maps; zeros beyond the edges.

    images (N, H, W, 3) float32; folded (N, cells, cells, 48): float32, or bfloat16 as uint16.
    """
    _, height, width, colors = images.shape
    cells = folded.shape[1]
    side = STRIDE * colors
    row = np.zeros(max(cells * side, width * colors), F32)
    used = min(cells * side, width * colors)
    for n in range(first, last):
        for i in range(cells):
            for down in range(STRIDE):
                y = STRIDE * i + down
                if y < height:
                    widen(images[n, y].reshape(width * colors)[:used], row[:used])
                    row[used:] = F32(0)
                else:
                    row[:] = F32(0)
                for j in range(cells):
                    narrow(row[j * side : (j + 1) * side], folded[n, i, j, down * side : (down + 1) * side])


@part
def mix(x):
    """32 well-mixed bits of 32; `alexnet_fast.network.dropout.mix`."""
    x = U32(x + U32(0x9E3779B9))
    x = U32(U32(x ^ (x >> U32(16))) * U32(0x7FEB352D))
    x = U32(U32(x ^ (x >> U32(15))) * U32(0x846CA68B))
    return U32(x ^ (x >> U32(16)))


@compiled
def zero_dropped(x, y, first, last, key, first_row, first_unit, threshold):
    """Rows first..last−1: y = x, but 0 where the hash of (key, row, unit) is below the threshold.  x, y (N, units)."""
    for row in range(first, last):
        row_key = mix(U32(mix(key) ^ U32(first_row + row)))
        own, out = x[row], y[row]
        for unit in range(len(own)):
            out[unit] = own[unit]
            if mix(U32(row_key ^ U32(first_unit + unit))) < threshold:
                out[unit] = 0
