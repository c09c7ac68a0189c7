"""Energy that a GPU takes, by NVIDIA's management library (package nvidia-ml-py)."""

from __future__ import annotations

import importlib
from typing import Any

import torch

JOULES_PER_KWH = 3.6e6


class EnergyCounter:
    """Counts from its construction on; all programs on the GPU together, since the GPU counts no processes."""

    def __init__(self, device: torch.device) -> None:
        self.library: Any = None
        self.handle: Any = None
        if device.type == "cuda":
            self.find(str(torch.cuda.get_device_properties(device).uuid))
        self.first = self.joules()

    def find(self, uuid: str) -> None:
        """Open the library, and the GPU by its identity: torch's numbers are not the library's."""
        try:
            library = importlib.import_module("pynvml")
            library.nvmlInit()
            self.handle = library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            self.library = library
        except Exception:  # no package, no driver library, a part of a GPU: each has its own kind of error
            self.library = None

    def joules(self) -> float | None:
        """Since the driver was loaded; None where it is unknown."""
        if self.library is None:
            return None
        try:
            return float(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1000
        except self.library.NVMLError:  # GPUs before Volta do not count
            return None

    def kwh(self) -> float | None:
        """Since this counter was made; None where it is unknown."""
        now = self.joules()
        return None if now is None or self.first is None else (now - self.first) / JOULES_PER_KWH
