"""The precision in which the network computes.  Weights, momentum and the loss are kept in float32 whatever it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_fast.tools.errors import UsageError


@dataclass(frozen=True)
class Precision:
    """What activations, working weights and gradients are."""

    name: str
    """"bf16", "fp16" or "fp32"."""
    dtype: torch.dtype
    reason: str
    """Half a sentence for people: why this one."""

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled up, because small gradients would otherwise vanish."""
        return self.dtype == torch.float16


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def name_of(dtype: torch.dtype) -> str:
    """bf16, fp16, fp32 or fp64."""
    return {dtype: name for name, dtype in DTYPES.items()}.get(dtype, "fp64")


def choose_precision(device: torch.device, asked: str = "auto") -> Precision:
    """`asked`: "auto" or a name.  auto: bf16 where the device multiplies it fast; fp16 on older GPUs; else fp32."""
    if asked != "auto" and asked not in DTYPES:
        raise UsageError(f"precision is {asked!r}: choose auto, {', '.join(DTYPES)}")
    if asked != "auto":
        if asked == "fp16" and device.type == "cpu":
            raise UsageError("precision fp16 on a CPU: it computes no float16; choose bf16 or fp32")
        if asked == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
            raise UsageError(
                f"precision bf16 on a {torch.cuda.get_device_name(device)}: GPUs before Ampere (compute capability "
                "8.0) compute no bfloat16; choose fp16 or fp32"
            )
        reason = "as asked; TF32 is off" if asked == "fp32" and device.type == "cuda" else "as asked"
        return Precision(asked, DTYPES[asked], reason)
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return Precision("bf16", torch.bfloat16, "this GPU multiplies it at full speed")
        return Precision("fp16", torch.float16, "this GPU is older than bfloat16")
    if cpu_multiplies_bf16():
        return Precision("bf16", torch.bfloat16, "this CPU multiplies it in hardware")
    return Precision("fp32", torch.float32, "this CPU has no bfloat16 arithmetic")


def cpu_multiplies_bf16() -> bool:
    """AVX-512 BF16, AMX or Arm's BF16; emulated bfloat16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
