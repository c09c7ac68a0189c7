"""The GPU's kernels against the same formulas in float64: on a CPU in Triton's interpreter, on a GPU compiled."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.network.dropout import DropoutKey, dropout_mask, step_key, threshold
from alexnet_fast.network.kernels import norms, plain
from alexnet_fast.network.kernels.pooling import Pooled, max_pool
from alexnet_fast.network.layers import conv1_size, fold_images

triton = pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODULES = tuple(
    f"alexnet_fast.network.kernels.triton_{name}"
    for name in ("norms", "update", "dropout", "pooling", "folding", "residual")
)
TOLERANCE = {torch.float32: 1e-6 if DEVICE == "cpu" else 3e-6, torch.bfloat16: 8e-3, torch.float16: 5e-4}
"""Of the result, relative: half precision is rounded once, at the end (the interpreter cuts bfloat16's digits off).

A GPU's roots are a digit or two off the nearest number.
"""
SHAPES = [(1, 2, 1, 1), (2, 6, 3, 5), (1, 96, 7, 3), (3, 10, 2, 9), (1, 260, 3, 2)]


@pytest.fixture(scope="module")
def kernels() -> Iterator[tuple[Any, ...]]:
    """The modules; without a GPU, in the interpreter, which is chosen when they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
            multiply_bfloat16(patch)
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield tuple(importlib.import_module(name) for name in MODULES)
    for name in MODULES:
        sys.modules.pop(name, None)


def multiply_bfloat16(patch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter keeps bfloat16 as the integers that its bits are, and its products take those."""
    from triton import language
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != language.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), language.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(self, widened(a), widened(b), *rest)

    patch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def maps(shape: tuple[int, ...], scale: float, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def assert_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.is_contiguous(memory_format=torch.channels_last)
    # Where terms cancel, what is left is a few units of the last digit of the largest: float32's, or of 16 bits.
    digit = 5e-7 if ours.dtype == torch.float32 else 1e-5
    least = digit * float(expected.abs().max()) + torch.finfo(ours.dtype).smallest_normal
    torch.testing.assert_close(ours.double(), expected, rtol=TOLERANCE[ours.dtype], atol=least)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_across_maps(
    kernels: tuple[Any, ...], shape: tuple[int, ...], towers: int, relu: bool, dtype: torch.dtype
) -> None:
    x, g = maps(shape, 100.0, dtype), maps(shape, 1.0, dtype, seed=1)
    alpha = 1e-2  # large, so that neighbors matter
    y = kernels[0].channel_forward(x, towers, alpha, relu)
    assert y.dtype == dtype
    assert_close(y, plain.channel_forward(x.double(), towers, alpha, relu))
    dx = kernels[0].channel_backward(g, x, towers, alpha, relu)
    assert_close(dx, plain.channel_backward(g.double(), x.double(), towers, alpha, relu))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_across_pixels(kernels: tuple[Any, ...], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, g = maps(shape, 100.0, dtype), maps(shape, 1.0, dtype, seed=1)
    y = kernels[0].spatial_forward(x)
    assert y.dtype == dtype
    assert_close(y, plain.spatial_forward(x.double()))
    assert_close(kernels[0].spatial_backward(g, x), plain.spatial_backward(g.double(), x.double()))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [0.0, 1e-7, 3e4])
def test_extreme_values(kernels: tuple[Any, ...], size: float, dtype: torch.dtype) -> None:
    """Nothing becomes NaN or infinite, from zeros to float16's largest numbers."""
    x, g = maps((1, 12, 3, 3), 1.0, dtype).clamp(-2, 2) * size, maps((1, 12, 3, 3), 1.0, dtype, seed=1)
    assert x.isfinite().all()
    x = x.contiguous(memory_format=torch.channels_last)
    assert_close(kernels[0].channel_forward(x, 2, 1e-4, False), plain.channel_forward(x.double(), 2, 1e-4, False))
    assert_close(
        kernels[0].channel_backward(g, x, 2, 1e-4, False),
        plain.channel_backward(g.double(), x.double(), 2, 1e-4, False),
    )
    assert_close(kernels[0].spatial_forward(x), plain.spatial_forward(x.double()))
    assert_close(kernels[0].spatial_backward(g, x), plain.spatial_backward(g.double(), x.double()))


def test_no_images(kernels: tuple[Any, ...]) -> None:
    empty = maps((0, 4, 3, 3), 1.0, torch.float32)
    for module in (kernels[0], plain):
        assert module.channel_forward(empty, 2, 1e-4, False).shape == empty.shape
        assert module.spatial_backward(empty, empty).shape == empty.shape


@pytest.mark.parametrize("working_dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (48, 5, 3, 3), (3, 1000)])
@pytest.mark.parametrize("alive", [True, False])
def test_update(
    kernels: tuple[Any, ...], shape: tuple[int, ...], working_dtype: torch.dtype | None, alive: bool
) -> None:
    def tensors() -> list[torch.Tensor | None]:
        values = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE) for seed in range(3)]
        if len(shape) == 4:
            values = [value.contiguous(memory_format=torch.channels_last) for value in values]
        weight, velocity, gradient = values
        working = None if working_dtype is None else torch.zeros_like(weight, dtype=working_dtype)
        return [weight, velocity, gradient.to(working_dtype or torch.float32), working]

    scalars: dict[str, Any] = {
        "rate": torch.tensor(0.01, dtype=torch.float64, device=DEVICE),
        "momentum": 0.9,
        "decay": 5e-2,
        "gradient_scale": torch.tensor(0.5, device=DEVICE),
        "alive": torch.tensor(alive, device=DEVICE),
    }
    ours, expected = tensors(), tensors()
    kernels[1].update(*ours, **scalars)
    if alive:  # the formula of `update`, as it stands there
        w, v, g, copy = expected
        assert w is not None and v is not None and g is not None
        v.copy_(0.9 * v - 0.01 * (0.5 * g.float() + 5e-2 * w))
        w += v
        if copy is not None:
            copy.copy_(w)
    for one, other in zip(ours, expected, strict=True):
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-5 if one.dtype == torch.float32 else 1e-2, atol=1e-7)
    assert torch.equal(ours[0], tensors()[0]) != alive  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize(
    ("rows", "units", "first_row", "first_unit"), [(3, 10, 0, 0), (2, 2048, 96, 2048), (0, 4, 0, 0)]
)
def test_dropout(kernels: tuple[Any, ...], rows: int, units: int, first_row: int, first_unit: int, rate: float) -> None:
    key = DropoutKey(torch.tensor(step_key(3, 2**31), device=DEVICE), first_row)
    x = torch.randn(rows, units, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.bfloat16)
    for layer in (6, 7):
        mask = dropout_mask(key, layer, rows, units, first_unit, rate)
        ours = kernels[2].zero_dropped(x, key.key, layer, first_row, first_unit, threshold(rate))
        assert torch.equal(ours, torch.where(mask, x, 0))


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float16, torch.bfloat16), (torch.float32, torch.float32)])
@pytest.mark.parametrize("size", [67, 35, 64])
def test_folded_images(kernels: tuple[Any, ...], size: int, dtype: torch.dtype, wanted: torch.dtype) -> None:
    images = maps((2, 3, size, size), 8.0, dtype).round()
    cells = conv1_size(size) + 2
    folded = kernels[4].fold(images, cells, wanted)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    expected = fold_images(images.cpu(), cells, wanted)
    assert folded.dtype == expected.dtype and torch.equal(folded.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("num", "size"), [(2, 35), (1, 67), (0, 4)])
def test_what_is_left_of_the_mean_is_subtracted(
    kernels: tuple[Any, ...], num: int, size: int, dtype: torch.dtype
) -> None:
    """To the bit as torch does it, into the tensor that was given."""
    images, residual = maps((num, 3, size, size), 60.0, dtype), maps((1, 3, size, size), 9.0, dtype, seed=1)[0]
    out = torch.full_like(images, 7.0)
    kernels[5].subtract(images, residual, out)
    assert out.is_contiguous(memory_format=torch.channels_last) and torch.equal(out, images - residual)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 48, 6, 7), (2, 260, 2, 3)])
def test_pooling(shape: tuple[int, ...], size: int, relu: bool, dtype: torch.dtype) -> None:
    """To the bit, among equal maxima, with windows that the edge cuts, below and above zero."""
    x = maps(shape, 2.0, dtype).round()
    wide = x.double().requires_grad_()
    expected = torch.nn.functional.max_pool2d(wide, size, 2, ceil_mode=True)
    expected = expected.relu() if relu else expected
    own = x.clone().requires_grad_()
    y = Pooled.apply(own, None, size, relu)  # type: ignore[no-untyped-call]
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y.double(), expected)
    g = maps(tuple(y.shape), 4.0, dtype, seed=1).round()
    y.backward(g)
    expected.backward(g.double())  # type: ignore[no-untyped-call]
    assert own.grad is not None and wide.grad is not None
    assert torch.equal(own.grad.double(), wide.grad)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 48, 6, 7), (1, 260, 2, 3)])
def test_a_bias_in_passing(
    kernels: tuple[Any, ...], shape: tuple[int, ...], relu: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm and the pooling after a convolution add its bias first; forward and back."""
    monkeypatch.setattr(norms, "kernels_for", lambda x: plain if x.dtype == torch.float64 else kernels[0])
    x, g = maps(shape, 50.0, dtype), maps(shape, 1.0, dtype, 1)
    bias = maps((shape[1], 1, 1, 1), 50.0, dtype, 2).flatten()

    def normed(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return norms.local_response_norm(x, 2, 1e-2, relu, bias)

    def pooled(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            return max_pool(x, 3, relu, bias)
        y: torch.Tensor = Pooled.apply(x, bias, 3, relu)  # type: ignore[no-untyped-call]
        return y

    for after in (normed, pooled):
        ours = [tensor.clone().requires_grad_() for tensor in (x, bias)]
        expected = [tensor.double().requires_grad_() for tensor in (x, bias)]
        results = after(*ours), after(*expected)
        assert_close(results[0].detach(), results[1].detach())
        gradient = g[:, :, : results[0].shape[2], : results[0].shape[3]]
        for result in results:
            result.backward(gradient.to(result.dtype))  # type: ignore[no-untyped-call]
        assert ours[0].grad is not None and expected[0].grad is not None
        assert_close(ours[0].grad, expected[0].grad)
        # A sum over the pixels of what was rounded before.
        least = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(ours[1].grad, expected[1].grad, rtol=least, atol=10 * least, check_dtype=False)


@pytest.mark.usefixtures("kernels")
def test_pooling_passes_nan_on() -> None:
    x = maps((1, 4, 3, 3), 1.0, torch.float32)
    x[0, 2, 1, 1] = float("nan")
    y = Pooled.apply(x.requires_grad_(), None, 3, True)  # type: ignore[no-untyped-call]
    assert y.isnan().flatten().tolist() == [False, False, True, False]
    y.sum().backward()
    assert x.grad is not None and float(x.grad[0, 2, 1, 1]) == 1.0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("relu", [False, True])
def test_blocks_of_plain_torch(relu: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU runs, in blocks of which the last is shorter, against float64 in one block."""
    x, g = maps((5, 12, 7, 3), 100.0, dtype), maps((5, 12, 7, 3), 1.0, dtype, seed=1)
    alpha = 1e-2
    expected = (
        plain.channel_forward(x.double(), 2, alpha, relu),
        plain.channel_backward(g.double(), x.double(), 2, alpha, relu),
        plain.spatial_forward(x.double()),
        plain.spatial_backward(g.double(), x.double()),
    )
    monkeypatch.setattr(plain, "BLOCK", 2 * 12 * 7 * 3 // torch.get_num_threads())
    ours = (
        plain.channel_forward(x, 2, alpha, relu),
        plain.channel_backward(g, x, 2, alpha, relu),
        plain.spatial_forward(x),
        plain.spatial_backward(g, x),
    )
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == dtype
        assert_close(one, other)
