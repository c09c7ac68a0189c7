"""What is compiled ahead is all that a training step needs."""

from __future__ import annotations

import pytest

from alexnet_fast.network.kernels import numba_maps, numba_step
from alexnet_fast.training.compile_ahead import compile_ahead


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_every_loop_is_compiled(precision: str) -> None:
    compile_ahead(precision)
    number = "uint16" if precision == "bf16" else "float32"
    for module in (numba_maps, numba_step):
        loops = [loop for loop in vars(module).values() if hasattr(loop, "overloads") and loop.stats.cache_path]
        assert loops
        missing = [loop.__name__ for loop in loops if not any(number in str(types) for types in loop.overloads)]
        assert not missing
