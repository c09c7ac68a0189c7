"""On a GPU, `alexnet-fast check`'s own functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_fast.check.runner import Check, Place

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def gpu_checks() -> list[Check]:
    from alexnet_fast.check import gpu

    several = gpu.CHECKS_OF_SEVERAL if torch.cuda.device_count() > 1 else ()
    return [*gpu.CHECKS, *several]


@pytest.mark.parametrize("check", gpu_checks(), ids=lambda check: check.name)
def test_what_only_a_gpu_can_show(check: Check, tmp_path: Path) -> None:
    print(f"\n{check.name}: {check.run(Place(tmp_path))}")
