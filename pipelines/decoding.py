"""JPEG bytes to pixels: on the CPU, on the GPU's JPEG engines, or on its CUDA cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from alexnet_fast.pipelines.dali import fn, types

DecodeOn = Literal["engines", "cuda", "cpu"]
"""For a GPU: its JPEG engines together with its CUDA cores, the CUDA cores alone, or the CPU, which crops too."""
PLACES: tuple[DecodeOn, ...] = get_args(DecodeOn)


@dataclass(frozen=True)
class Decoding:
    """How images are decoded.  `hw_decoder_load` and `cache_mib` are for the "mixed" backend."""

    backend: Literal["cpu", "mixed"]
    size: int
    """Pixels on each side of a stored image: buffers are allocated for it before the first batch."""
    hw_decoder_load: float = 0.65
    """Share of each batch for the JPEG engines, 0..1; the rest is decoded by CUDA cores, which round differently."""
    cache_mib: int = 0
    """MiB of decoded images that are kept in the GPU's memory, until it is full; 0 keeps none."""

    to_gpu: bool = False
    """Whether pixels decoded by the CPU are copied to the GPU, to be normalized there."""

    @classmethod
    def on(cls, device: torch.device, size: int, place: DecodeOn, hw_decoder_load: float) -> Decoding:
        """For a loader whose batches are on `device`; on a CPU there is one way."""
        if device.type == "cpu":
            return cls("cpu", size, 0.0)
        if place == "cpu":
            return cls("cpu", size, 0.0, to_gpu=True)
        return cls("mixed", size, hw_decoder_load if place == "engines" else 0.0)

    def describe(self) -> str:
        """What decides the pixels; cached images keep the pixels of the first decoder."""
        if self.backend == "cpu":
            return "cpu, finished on the GPU" if self.to_gpu else "cpu"
        kept = ", kept as first decoded" if self.cache_mib and 0 < self.hw_decoder_load < 1 else ""
        return f"{self.backend}, {self.hw_decoder_load:g} by the JPEG engines{kept}"


def decode(jpeg: Any, decoding: Decoding) -> Any:
    """(size, size, 3) uint8 RGB.  On the CPU equal to Pillow's pixels, bit for bit."""
    return fn.decoders.image(jpeg, **decoder_options(decoding))


def decoder_options(decoding: Decoding) -> dict[str, Any]:
    """Of DALI's decoder."""
    if decoding.backend == "cpu":
        return {"device": "cpu"}
    # All decoders of a process on one GPU must ask for the same cache; one that asks for none stays without.
    cache = {"cache_size": decoding.cache_mib, "cache_type": "threshold"} if decoding.cache_mib else {}
    return {
        "device": "mixed",
        "hw_decoder_load": decoding.hw_decoder_load,
        "preallocate_width_hint": decoding.size,
        "preallocate_height_hint": decoding.size,
        # Nearer to the CPU decoder's pixels than the default, which repeats chroma samples.
        "jpeg_fancy_upsampling": True,
        **cache,
    }


def decode_nothing(decoding: Decoding) -> Any:
    """A decoder like that of `decode`, for a pipeline that is built and never run."""
    return decode(fn.external_source(name="nothing", dtype=types.UINT8, ndim=1), decoding)


def decode_crop(jpeg: Any, crop: tuple[int, int], corner: Any) -> Any:
    """(*crop, 3) uint8 RGB on the CPU: what `decode` and then cutting would give.  corner: (2,) int32, y and x."""
    return fn.decoders.image_slice(jpeg, device="cpu", start=corner, shape=crop, axis_names="HW")
