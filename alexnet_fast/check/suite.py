"""Which checks there are for this machine, in their order."""

from __future__ import annotations

from alexnet_fast.check import machine, program
from alexnet_fast.check.runner import Check


def checks_for(*, quick: bool) -> list[Check]:
    """Machine and program; on a GPU its own too, without those that only measure where `quick`."""
    import torch

    checks = [*machine.CHECKS, *program.CHECKS]
    if torch.cuda.is_available():
        from alexnet_fast.check import gpu, gpu_speed, gpu_sweeps

        checks += gpu.CHECKS
        if not quick:
            checks += [*gpu_speed.MEASUREMENTS, *gpu_sweeps.SWEEPS]
        if torch.cuda.device_count() > 1:
            checks += gpu.CHECKS_OF_SEVERAL
    return checks
