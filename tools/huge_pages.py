"""Pages of 2 MB instead of 4 KB for torch's large tensors on a CPU.

A step reads and writes all weights, gradients and velocities: with small pages the processor looks up a new one each
4 KB.  Most distributions give large pages to those who ask (`/sys/kernel/mm/transparent_hugepage/enabled` is
`madvise`), and torch asks where THP_MEM_ALLOC_ENABLE is 1.  On one core a sum of float32 read 30 to 34 instead of 27 to
30 GB/s, the update took 8 % less time and the step of net 167 2 % (benchmarks/LOG.md).
"""

from __future__ import annotations

import os

ENABLE = "THP_MEM_ALLOC_ENABLE"


def ask_for_huge_pages() -> None:
    """For tensors of 2 MB and more, unless the user has chosen; to be called before torch makes its first tensor."""
    os.environ.setdefault(ENABLE, "1")
