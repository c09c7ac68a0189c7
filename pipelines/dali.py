"""NVIDIA DALI, with a sentence where it is missing."""

from __future__ import annotations

from typing import Any

from alexnet_fast.tools.errors import UserError

try:
    import nvidia.dali as dali
    from nvidia.dali import fn as dali_fn
    from nvidia.dali import types as dali_types
except ImportError as error:
    raise UserError(
        f"NVIDIA DALI cannot be imported ({error}). It reads and decodes the pictures; "
        "install it: pip install nvidia-dali-cuda120 (Linux; it runs on the CPU too)."
    ) from error

VERSION: str = dali.__version__
# DALI's operators are made at run time; its stubs know only a part of them and of their arguments.
Pipeline: Any = dali.Pipeline  # type: ignore[attr-defined]
fn: Any = dali_fn
types: Any = dali_types

__all__ = ["VERSION", "Pipeline", "fn", "types"]
