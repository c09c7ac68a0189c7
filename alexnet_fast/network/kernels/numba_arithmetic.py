"""bfloat16 in compiled loops: numba does not know it, so that its arrays are uint16, the bits."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

U32 = np.uint32
QUIET_NAN = 0x7FC0


def widen(source, target):
    """target (float32) = source (float32, or bfloat16 as uint16)."""
    raise NotImplementedError


def narrow(source, target):
    """target (float32, or bfloat16 as uint16) = source (float32), rounded to the nearest, ties to even."""
    raise NotImplementedError


@overload(widen)
def widen_for(source, target):
    if source.dtype == numba.types.uint16:

        def widen_bits(source, target):
            bits = target.view(np.uint32)
            for i in range(len(source)):
                bits[i] = U32(source[i]) << U32(16)

        return widen_bits
    return copy


@overload(narrow)
def narrow_for(source, target):
    if target.dtype == numba.types.uint16:

        def narrow_bits(source, target):
            bits = source.view(np.uint32)
            for i in range(len(target)):
                b = bits[i]
                rounded = (b + U32(0x7FFF) + ((b >> U32(16)) & U32(1))) >> U32(16)
                # Rounding up could carry a NaN's digits into its sign.
                nan = source[i] != source[i]
                target[i] = np.uint16(U32(QUIET_NAN) if nan else rounded)

        return narrow_bits
    return copy


def copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]
