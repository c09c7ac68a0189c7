"""The import of NVIDIA DALI; raises UserError where it is missing or too old."""

from __future__ import annotations

from typing import Any

from alexnet_fast.tools.errors import UserError

try:
    import nvidia.dali as dali
    from nvidia.dali import backend as dali_backend
    from nvidia.dali import fn as dali_fn
    from nvidia.dali import types as dali_types
    from nvidia.dali.plugin import pytorch as dali_pytorch
    from nvidia.dali.tensors import TensorCPU
except ImportError as error:
    raise UserError(
        f"NVIDIA DALI cannot be imported ({error}). It reads and decodes the images; "
        "install it: pip install nvidia-dali-cuda120 (Linux; it runs on the CPU too)."
    ) from error

VERSION: str = dali.__version__
LEAST = (2, 4)
"""Older releases can hang: on a batch of kept images, or after the JPEG engines refused one."""
if tuple(int(part) for part in VERSION.split(".")[:2]) < LEAST:
    raise UserError(
        f"NVIDIA DALI {VERSION} is installed; 2.4 or newer is needed: pip install -U 'nvidia-dali-cuda120>=2.4'."
    )
# DALI's operators are made at run time; its stubs know only a part of them and of their arguments.
ReleaseUnusedMemory: Any = dali_backend.ReleaseUnusedMemory  # type: ignore[attr-defined]
Pipeline: Any = dali.Pipeline  # type: ignore[attr-defined]
fn: Any = dali_fn
types: Any = dali_types
feed_ndarray: Any = dali_pytorch.feed_ndarray  # type: ignore[attr-defined]
to_torch_type: Any = dali_pytorch.to_torch_type  # type: ignore[attr-defined]

__all__ = ["VERSION", "Pipeline", "ReleaseUnusedMemory", "TensorCPU", "feed_ndarray", "fn", "to_torch_type", "types"]
