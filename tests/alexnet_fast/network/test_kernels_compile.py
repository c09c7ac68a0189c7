"""The GPU's kernels to machine code, which needs no GPU, for all that they are launched with."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

import pytest
import torch

from tests.forked import start_server

triton = pytest.importorskip("triton")
MODULES = tuple(
    f"alexnet_fast.network.kernels.triton_{name}"
    for name in ("norms", "update", "dropout", "pooling", "folding", "residual")
)


class Launches:
    """Stands where a kernel stands, and notes what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.noted = kernel, list[tuple[Any, ...]]()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(1 <= programs < limit for programs, limit in zip(grid, (2**31, 2**16, 2**16), strict=False))
        return lambda *arguments: self.noted.append(arguments)


def launch_all(modules: list[Any], dtype: torch.dtype, batch_size: int) -> None:
    """Every kernel as net 145 launches it: nothing is computed.  One process with both towers, or with one."""
    norms, update, dropout, pooling, folding, residual = modules

    def maps_of(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)

    for towers, share in ((2, 1), (1, 2)):
        for maps, size, pooled, after_norm in ((96, 55, 27, True), (256, 27, 13, True), (256, 13, 6, False)):
            x = maps_of(batch_size, maps // share, size, size)
            y = maps_of(batch_size, maps // share, pooled, pooled)
            bias = torch.empty(maps // share, dtype=dtype, device="meta")
            if after_norm:
                norms.channel_forward(x, towers, 1e-4, maps == 256, bias)
                norms.channel_backward(x, x, towers, 1e-4, maps == 256, bias)
            if maps == 256 and after_norm:
                norms.spatial_forward(x)
                norms.spatial_backward(x, x)
            places = maps_of(*y.shape, dtype=torch.uint8)
            pooling.forward(x, None if after_norm else bias, y, places, 3, maps == 96)
            if not after_norm or maps == 256:
                pooling.forward(x, bias, y, places, 3, True)
            pooling.backward(y, places, x, 3)
    loaded = torch.float32 if dtype == torch.float32 else torch.float16
    images = maps_of(batch_size, 3, 224, 224, dtype=loaded)
    folding.fold(images, 57, dtype)
    residual.subtract(images, torch.empty(224, 224, 3, dtype=loaded, device="meta").permute(2, 0, 1), images)
    kinds = (torch.float64, torch.float32, torch.int64, torch.bool)
    rate, scale, key, alive = (torch.empty((), dtype=kind, device="meta") for kind in kinds)
    for size in (9216 * 4096, 1000):
        w, g = torch.empty(size, device="meta"), torch.empty(size, dtype=dtype, device="meta")
        update.update(w, w, g, None if dtype == torch.float32 else g, rate, 0.9, 5e-4, scale, alive)
    for units, first_unit in ((4096, 0), (2048, 2048)):
        x = torch.empty(batch_size, units, dtype=dtype, device="meta")
        dropout.zero_dropped(x, key, 6, 0, first_unit, 2**31)


KINDS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
    torch.int64: "*i64",
}


def source_of(kernel: Any, arguments: tuple[Any, ...]) -> Any:
    """What Triton makes of arguments: their kinds, and which of them 16 divides, as it does all addresses."""
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    hints: dict[tuple[int], list[list[Any]]] = {}
    for place, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], hints[(place,)] = KINDS[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                hints[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=hints)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler is for Linux")
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (90, torch.bfloat16),
        (90, torch.float16),
        (90, torch.float32),
        (80, torch.bfloat16),
        (100, torch.bfloat16),
        (120, torch.bfloat16),
    ],
)
def test_kernels_compile(capability: int, dtype: torch.dtype) -> None:
    """In a process of its own: the interpreter, as of Triton 3.5, leaves a process that cannot compile any more."""
    process = start_server().Process(target=compile_all, args=(capability, dtype))
    process.start()
    process.join(280)
    assert process.exitcode == 0


def compile_all(capability: int, dtype: torch.dtype) -> None:
    """As they are launched; the interpreter takes what the compiler does not."""
    from triton.backends.compiler import GPUTarget

    os.environ.pop("TRITON_INTERPRET", None)
    for name in MODULES:
        sys.modules.pop(name, None)
    modules = [importlib.import_module(name) for name in MODULES]
    launches = []
    for module in modules:
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            launches.append(Launches(vars(module)[name]))
            setattr(module, name, launches[-1])
    for batch_size in (128, 1024):
        launch_all(modules, dtype, batch_size)
    assert len(launches) == 11 and all(launch.noted for launch in launches)
    for launch in launches:
        name = launch.kernel.__name__
        sources = {source.hash(): source for source in (source_of(launch.kernel, noted) for noted in launch.noted)}
        for source in sources.values():
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert compiled.asm["cubin"]
            ptx = compiled.asm["ptx"]
            if name.startswith("channel"):
                assert "max.f32" not in ptx  # it would swallow NaN and hide that the run has diverged
            if name != "update_kernel":
                few = 1 if name == "forward_kernel" else 0  # a block's biases
                assert ptx.count("ld.global.b16") <= few, "two bytes at a time: as slow as reading four times as much"
            if name in ("fold_kernel", "subtract_kernel"):  # they do little but move: several numbers both ways
                assert not re.search(r"(ld|st)\.global\.b(16|32)\b", ptx)
                assert ptx.count("ld.global.v") and ptx.count("st.global.v")
