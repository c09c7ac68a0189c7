"""Whether this process sums pixels with compiled loops or with numpy; the results are the same to the bit."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from alexnet_fast.tools.errors import UserError

FEWEST_IMAGES = 500
"""Of a shard, of which a worker makes several: from 1,000 images on the loops save more than the half second that numba
and their machine code take (and 50 MB of memory)."""

_loops: Any = None


def use_loops_for(num_images: int) -> None:
    """Load the loops, for the rest of this process, where shards of so many images are worth it."""
    global _loops
    if num_images < FEWEST_IMAGES or _loops is not None:
        return
    # Without numba numpy does the same.  Where no folder keeps the machine code, it is compiled in two seconds; each of
    # a hundred workers need not say so.
    with contextlib.suppress(UserError), contextlib.redirect_stderr(io.StringIO()):
        from alexnet_fast.tools.sharding import loops

        _loops = loops


def loops_in_use() -> Any:
    """The module of the loops; None: numpy is to be used."""
    return _loops
