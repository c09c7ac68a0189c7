"""Norm and max pooling as compiled loops over channels-last maps, one pass forward and one backward; what a CPU runs.

A loop works through one image row by row.  A row of pixels lies in two planes of float32, its even columns in one and
its odd ones in the other, so that each tap of a window with stride 2 is a contiguous piece of a plane: all arithmetic
is in long loops over flat arrays, which the compiler vectorizes.  Two zeros stand behind each tower's maps in a plane,
so that the window of a norm across maps needs no test for the tower's edge.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from alexnet_fast.network.kernels.numba_arithmetic import narrow, widen
from alexnet_fast.tools.compilation import compiled, part

F32 = np.float32
U32 = np.uint32
NOWHERE = 255
"""Instead of a maximum's position, where the ReLU is 0."""
LARGEST = np.finfo(np.float32).max
LEAD = 16
"""Zeros before and behind the numbers of a norm's window: more than HALO, so that vectors are stored where they fit."""
HALO = 2
"""Zeros behind each tower's maps: the reach of a norm's window."""


@part
def relu_in_place(values, length):
    """NaN propagates, so that divergence is detected."""
    for i in range(length):
        values[i] = F32(0) if values[i] <= F32(0) else values[i]


@part
def load_row(row, even, odd, towers, pitch, relu):
    """Widen a row of pixels (W, C) into its two planes."""
    width, maps = row.shape
    own = maps // towers
    pixel_pitch = towers * pitch
    for c in range(width):
        plane = even if c % 2 == 0 else odd
        start = c // 2 * pixel_pitch
        for t in range(towers):
            widen(row[c, t * own : (t + 1) * own], plane[start + t * pitch : start + t * pitch + own])
    if relu:
        relu_in_place(even, (width + 1) // 2 * pixel_pitch)
        relu_in_place(odd, width // 2 * pixel_pitch)


@part
def store_row(even, odd, row, towers, pitch):
    """Narrow two planes into a row of pixels (W, C)."""
    width, maps = row.shape
    own = maps // towers
    for c in range(width):
        plane = even if c % 2 == 0 else odd
        start = c // 2 * towers * pitch
        for t in range(towers):
            narrow(plane[start + t * pitch : start + t * pitch + own], row[c, t * own : (t + 1) * own])


@part
def inverse_root(d):
    """d^-0.5; of infinity 0, of which the processor's estimate of a root would make NaN."""
    return F32(0) if d > LARGEST else F32(1) / math.sqrt(d)


@part
def square(x, squares, length):
    """squares[LEAD:] = x²; what lies before and behind stays 0."""
    inside = squares[LEAD:]
    for i in range(length):
        inside[i] = x[i] * x[i]


@part
def norm_plane(x, squares, y, length, k, a):
    """y = x·d^-0.75 with d = k + a·(the sum of five squares)."""
    square(x, squares, length)
    s = squares[LEAD - HALO :]
    for i in range(length):
        r = inverse_root(k + a * (s[i] + s[i + 1] + s[i + 2] + s[i + 3] + s[i + 4]))
        y[i] = x[i] * (r * math.sqrt(r))


@part
def norm_plane_back(x, g, squares, through, inner, length, k, a):
    """g ← g·d^-0.75 − 1.5·a·x·(the sum of five of g·x·d^-1.75).

    `through` is a buffer for the first term: writing it over g in the same loop takes three times as long.
    """
    square(x, squares, length)
    s = squares[LEAD - HALO :]
    inside = inner[LEAD:]
    for i in range(length):
        r = inverse_root(k + a * (s[i] + s[i + 1] + s[i + 2] + s[i + 3] + s[i + 4]))
        t = g[i] * (r * math.sqrt(r))
        through[i] = t
        inside[i] = t * x[i] * (r * r)
    q = inner[LEAD - HALO :]
    b = F32(1.5) * a
    for i in range(length):
        g[i] = through[i] - b * x[i] * (q[i] + q[i + 1] + q[i + 2] + q[i + 3] + q[i + 4])


@part
def take_larger(values, most, place, number, length):
    """The first of equal ones stays, and NaN is the largest, as in torch."""
    for i in range(length):
        m, v = most[i], values[i]
        larger = (m == m) & (not (v <= m))
        most[i] = v if larger else m
        place[i] = number if larger else place[i]


@part
def take_row(even, odd, beyond, most, place, number, length):
    """`take_larger` of the three taps of a row of a 3×3 window, in registers."""
    for i in range(length):
        m, p = most[i], place[i]
        v = even[i]
        larger = (m == m) & (not (v <= m))
        m = v if larger else m
        p = number if larger else p
        v = odd[i]
        larger = (m == m) & (not (v <= m))
        m = v if larger else m
        p = number + U32(1) if larger else p
        v = beyond[i]
        larger = (m == m) & (not (v <= m))
        most[i] = v if larger else m
        place[i] = number + U32(2) if larger else p


@part
def relu_of_maxima(most, place, length):
    for i in range(length):
        dead = most[i] <= F32(0)
        place[i] = U32(NOWHERE) if dead else place[i]
        most[i] = F32(0) if dead else most[i]


@compiled
def pool_forward(x, y, places, first, last, towers, k, a, size, normed, relu_first, relu_last):
    """Images first..last−1: ReLU (if relu_first), norm across maps (if normed), max pooling, ReLU (if relu_last).

    x (N, H, W, C), y (N, h, w, C): float32, or bfloat16 as uint16.  places (N, h, w, C) uint8: where in its window
    each maximum was, row by row from 0, or NOWHERE.
    """
    _, height, width, maps = x.shape
    rows, columns = y.shape[1:3]
    own = maps // towers
    pitch = own + HALO if normed else own
    pixel = towers * pitch
    length = columns * pixel
    in_plane = (columns + (size + 1) // 2) * pixel
    load_even, load_odd = np.zeros(in_plane, F32), np.zeros(in_plane, F32)
    squares = np.zeros(in_plane + 2 * LEAD, F32)
    # A pixel beyond the right edge is never larger.
    even, odd = np.full((size, in_plane), F32(-np.inf)), np.full((size, in_plane), F32(-np.inf))
    most, place = np.empty(length, F32), np.empty(length, U32)
    num_even, num_odd = (width + 1) // 2 * pixel, width // 2 * pixel
    for n in range(first, last):
        loaded = 0
        for i in range(rows):
            bottom = min(2 * i + size, height)
            for r in range(loaded, bottom):
                if normed:
                    load_row(x[n, r], load_even, load_odd, towers, pitch, relu_first)
                    norm_plane(load_even, squares, even[r % size], num_even, k, a)
                    norm_plane(load_odd, squares, odd[r % size], num_odd, k, a)
                else:
                    load_row(x[n, r], even[r % size], odd[r % size], towers, pitch, relu_first)
            loaded = bottom
            most[:] = even[2 * i % size, :length]
            place[:] = U32(0)
            for down in range(bottom - 2 * i):
                e, o = even[(2 * i + down) % size], odd[(2 * i + down) % size]
                if size == 3:
                    take_row(e, o, e[pixel:], most, place, U32(down * size), length)
                else:
                    for right in range(size):
                        tap = (e if right % 2 == 0 else o)[right // 2 * pixel :]
                        take_larger(tap, most, place, U32(down * size + right), length)
            if relu_last:
                relu_of_maxima(most, place, length)
            for j in range(columns):
                for t in range(towers):
                    o = j * pixel + t * pitch
                    narrow(most[o : o + own], y[n, i, j, t * own : (t + 1) * own])
                    where, out = place[o : o + own], places[n, i, j, t * own : (t + 1) * own]
                    for m in range(own):
                        out[m] = np.uint8(where[m])


@part
def add_where(g, place, number, out, length):
    for i in range(length):
        out[i] += g[i] if place[i] == number else F32(0)


@part
def add_where_either(g, place, number, before_g, before_place, before_number, out, length):
    """`add_where` from two windows at once."""
    for i in range(length):
        own = g[i] if place[i] == number else F32(0)
        out[i] += own + (before_g[i] if before_place[i] == before_number else F32(0))


@compiled
def pool_backward(x, gradient, places, dx, first, last, towers, k, a, size, normed, relu_first):
    """The gradient of `pool_forward`'s x."""
    _, height, width, maps = dx.shape
    rows, columns = gradient.shape[1:3]
    own = maps // towers
    pitch = own + HALO if normed else own
    pixel = towers * pitch
    length = columns * pixel
    in_plane = (columns + (size + 1) // 2) * pixel
    even, odd = np.zeros(in_plane, F32), np.zeros(in_plane, F32)
    even_g, odd_g = np.zeros(in_plane, F32), np.zeros(in_plane, F32)
    squares, inner = np.zeros(in_plane + 2 * LEAD, F32), np.zeros(in_plane + 2 * LEAD, F32)
    through = np.empty(in_plane, F32)
    held = (size + 1) // 2  # rows of windows that a pixel may be in
    # A window before the first, and one behind the last, in which no maximum is.
    g, place = np.zeros((held, length + 2 * pixel), F32), np.full((held, length + 2 * pixel), U32(NOWHERE))
    num_even, num_odd = (width + 1) // 2 * pixel, width // 2 * pixel
    for n in range(first, last):
        for r in range(height):
            if r % 2 == 0 and r // 2 < rows:
                i = r // 2
                for j in range(columns):
                    for t in range(towers):
                        o = (j + 1) * pixel + t * pitch
                        widen(gradient[n, i, j, t * own : (t + 1) * own], g[i % held, o : o + own])
                        where, out = places[n, i, j, t * own : (t + 1) * own], place[i % held, o : o + own]
                        for m in range(own):
                            out[m] = U32(where[m])
            even_g[:] = F32(0)
            odd_g[:] = F32(0)
            for i in range(max(0, (r - size + 2) // 2), min(r // 2, rows - 1) + 1):
                own_g, own_place = g[i % held, pixel:], place[i % held, pixel:]
                number = U32((r - 2 * i) * size)
                if size == 3:
                    add_where_either(
                        own_g, own_place, number, g[i % held], place[i % held], number + U32(2), even_g, length + pixel
                    )
                    add_where(own_g, own_place, number + U32(1), odd_g, length)
                else:
                    for right in range(size):
                        plane = even_g if right % 2 == 0 else odd_g
                        add_where(own_g, own_place, number + U32(right), plane[right // 2 * pixel :], length)
            if normed or relu_first:
                load_row(x[n, r], even, odd, towers, pitch, relu_first)
            if normed:
                norm_plane_back(even, even_g, squares, through, inner, num_even, k, a)
                norm_plane_back(odd, odd_g, squares, through, inner, num_odd, k, a)
            if relu_first:
                mask(even, even_g, num_even)
                mask(odd, odd_g, num_odd)
            store_row(even_g, odd_g, dx[n, r], towers, pitch)


@part
def mask(x, g, length):
    for i in range(length):
        g[i] = F32(0) if x[i] <= F32(0) else g[i]


@compiled
def norm_forward(x, y, first, last, towers, k, a, relu):
    """Images first..last−1: ReLU (if relu), then the norm across maps.  x, y (N, H, W, C)."""
    _, height, width, maps = x.shape
    own = maps // towers
    pitch = own + HALO
    half = (width + 1) // 2 * towers * pitch
    even, odd = np.zeros(half, F32), np.zeros(half, F32)
    even_y, odd_y = np.zeros(half, F32), np.zeros(half, F32)
    squares = np.zeros(half + 2 * LEAD, F32)
    for n in range(first, last):
        for r in range(height):
            load_row(x[n, r], even, odd, towers, pitch, relu)
            norm_plane(even, squares, even_y, half, k, a)
            norm_plane(odd, squares, odd_y, half, k, a)
            store_row(even_y, odd_y, y[n, r], towers, pitch)


@compiled
def norm_backward(x, gradient, dx, first, last, towers, k, a, relu):
    """The gradient of `norm_forward`'s x."""
    _, height, width, maps = x.shape
    own = maps // towers
    pitch = own + HALO
    half = (width + 1) // 2 * towers * pitch
    even, odd = np.zeros(half, F32), np.zeros(half, F32)
    even_g, odd_g = np.zeros(half, F32), np.zeros(half, F32)
    squares, inner = np.zeros(half + 2 * LEAD, F32), np.zeros(half + 2 * LEAD, F32)
    through = np.empty(half, F32)
    for n in range(first, last):
        for r in range(height):
            load_row(x[n, r], even, odd, towers, pitch, relu)
            load_row(gradient[n, r], even_g, odd_g, towers, pitch, False)
            norm_plane_back(even, even_g, squares, through, inner, half, k, a)
            norm_plane_back(odd, odd_g, squares, through, inner, half, k, a)
            if relu:
                mask(even, even_g, half)
                mask(odd, odd_g, half)
            store_row(even_g, odd_g, dx[n, r], towers, pitch)


@part
def spatial_sums(rows, r, height, maps, columns, out):
    """out = the sum over the 5×5 pixels around each of row r.

    rows (6, W·C): a ring of 5, and one of zeros; columns: (W + 4)·C elements, the first and last 2·C of them 0.
    """
    length = len(out)
    r0, r1 = rows[(r - 2) % 5 if r >= 2 else 5], rows[(r - 1) % 5 if r >= 1 else 5]
    r2, r3 = rows[r % 5], rows[(r + 1) % 5 if r + 1 < height else 5]
    r4 = rows[(r + 2) % 5 if r + 2 < height else 5]
    inside = columns[2 * maps :]
    for i in range(length):
        inside[i] = r0[i] + r1[i] + r2[i] + r3[i] + r4[i]
    c1, c2, c3, c4 = columns[maps:], columns[2 * maps :], columns[3 * maps :], columns[4 * maps :]
    for i in range(length):
        out[i] = columns[i] + c1[i] + c2[i] + c3[i] + c4[i]


@compiled
def spatial_forward(x, y, first, last, k, a):
    """Images first..last−1: the norm across 5×5 pixels.  x, y (N, H, W·C), and maps C."""
    _, height, width, maps = x.shape
    flat = width * maps
    values, squares = np.zeros((5, flat), F32), np.zeros((6, flat), F32)
    columns, sums = np.zeros(flat + 4 * maps, F32), np.zeros(flat, F32)
    for n in range(first, last):
        loaded = 0
        for r in range(height):
            for q in range(loaded, min(height, r + 3)):
                value, squared = values[q % 5], squares[q % 5]
                widen(x[n, q].reshape(flat), value)
                for i in range(flat):
                    squared[i] = value[i] * value[i]
            loaded = min(height, r + 3)
            spatial_sums(squares, r, height, maps, columns, sums)
            value = values[r % 5]
            for i in range(flat):
                p = inverse_root(k + a * sums[i])
                sums[i] = value[i] * (p * math.sqrt(p))
            narrow(sums, y[n, r].reshape(flat))


@compiled
def spatial_backward(x, gradient, dx, first, last, k, a):
    """The gradient of `spatial_forward`'s x."""
    _, height, width, maps = x.shape
    flat = width * maps
    values, squares = np.zeros((5, flat), F32), np.zeros((6, flat), F32)
    through, inner = np.zeros((5, flat), F32), np.zeros((6, flat), F32)
    columns, sums = np.zeros(flat + 4 * maps, F32), np.zeros(flat, F32)
    g = np.zeros(flat, F32)
    b = F32(1.5) * a
    for n in range(first, last):
        loaded = 0
        done = 0
        for r in range(height):
            # The window around row r needs the inner terms of rows up to r + 2, and those the squares up to r + 4.
            for q in range(done, min(height, r + 3)):
                for s in range(loaded, min(height, q + 3)):
                    value, squared = values[s % 5], squares[s % 5]
                    widen(x[n, s].reshape(flat), value)
                    for i in range(flat):
                        squared[i] = value[i] * value[i]
                loaded = min(height, q + 3)
                spatial_sums(squares, q, height, maps, columns, sums)
                widen(gradient[n, q].reshape(flat), g)
                value, t, inside = values[q % 5], through[q % 5], inner[q % 5]
                for i in range(flat):
                    p = inverse_root(k + a * sums[i])
                    v = g[i] * (p * math.sqrt(p))
                    t[i] = v
                    inside[i] = v * value[i] * (p * p)
            done = min(height, r + 3)
            spatial_sums(inner, r, height, maps, columns, sums)
            widen(x[n, r].reshape(flat), g)
            t = through[r % 5]
            for i in range(flat):
                g[i] = t[i] - b * g[i] * sums[i]
            narrow(g, dx[n, r].reshape(flat))
