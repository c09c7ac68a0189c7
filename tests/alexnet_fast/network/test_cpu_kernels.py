"""The compiled loops of a CPU against the same formulas in float64 and its automatic gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from alexnet_fast.network import dropout
from alexnet_fast.network.dropout import DropoutKey, dropout_mask, step_key
from alexnet_fast.network.kernels import cpu, norms, pooling, update
from alexnet_fast.network.layers import conv1_size, fold_images
from alexnet_fast.network.model import NETS, AlexNet, loss_and_errors, small

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
"""Of a number, relative: bfloat16 is rounded once, at the end."""
ALPHA = 1e-2
"""Large, so that neighbors matter."""
SHAPES = [(1, 1, 2, 2), (1, 2, 3, 3), (3, 6, 5, 4), (2, 96, 7, 10), (1, 34, 9, 3), (2, 20, 2, 11)]
POOLS = (2, 3, 4, 5)


def maps(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 50.0, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def norm64(x: torch.Tensor, towers: int, alpha: float = ALPHA) -> torch.Tensor:
    return torch.cat([F.local_response_norm(own, 5, alpha, 0.75, 2.0) for own in x.chunk(towers, dim=1)], dim=1)


def spatial64(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + 1e-3 * F.avg_pool2d(x**2, 5, 1, padding=2)) ** 0.75


def pool64(x: torch.Tensor, size: int) -> torch.Tensor:
    return F.max_pool2d(x, size, 2, ceil_mode=True)


def assert_same(
    ours: Callable[[torch.Tensor], torch.Tensor], expected: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> None:
    """Values and gradients of `ours` are those of `expected` in float64."""
    own, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected_y = ours(own), expected(wide)
    assert y.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    g = maps(tuple(y.shape), x.dtype, scale=1.0, seed=1)
    y.backward(g)  # type: ignore[no-untyped-call]
    expected_y.backward(g.double())  # type: ignore[no-untyped-call]
    assert own.grad is not None and wide.grad is not None
    for result, reference in ((y, expected_y), (own.grad, wide.grad)):
        # Where terms cancel, what is left is a few units of the last digit of the largest.
        most = float(reference.detach().abs().max()) if reference.numel() else 0.0
        digit = 5e-6 if x.dtype == torch.float32 else 1e-4
        torch.testing.assert_close(
            result.double(), reference, rtol=TOLERANCE[x.dtype], atol=digit * most + torch.finfo(x.dtype).tiny
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu_first", [False, True])
@pytest.mark.parametrize("relu_last", [False, True])
@pytest.mark.parametrize("pool_size", POOLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_and_pooling(
    shape: tuple[int, ...], pool_size: int, relu_last: bool, relu_first: bool, dtype: torch.dtype
) -> None:
    """Also alone, with one tower and two, and where the edge cuts the last windows."""
    shape = (*shape[:2], *(max(side, pool_size - 1) for side in shape[2:]))  # that there is a window
    x = maps(shape, dtype)

    def reference(wide: torch.Tensor, towers: int | None) -> torch.Tensor:
        wide = wide.relu() if relu_first else wide
        y = pool64(wide if towers is None else norm64(wide, towers), pool_size)
        return y.relu() if relu_last else y

    for towers in (1, 2)[: 1 + (shape[1] % 2 == 0)]:
        assert_same(
            lambda own, towers=towers: pooling.norm_and_pool(  # type: ignore[misc]
                own, towers, ALPHA, pool_size, relu_first=relu_first, relu_last=relu_last
            ),
            lambda wide, towers=towers: reference(wide, towers),  # type: ignore[misc]
            x,
        )
    if not relu_first:
        assert_same(lambda own: pooling.max_pool(own, pool_size, relu_last), lambda wide: reference(wide, None), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1, 1), (2, 4, 1, 6)])
def test_norms_alone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = maps(shape, dtype)
    for relu in (False, True):
        for towers in (1, 2)[: 1 + (shape[1] % 2 == 0)]:
            assert_same(
                lambda own, towers=towers, relu=relu: norms.local_response_norm(own, towers, ALPHA, relu),  # type: ignore[misc]
                lambda wide, towers=towers, relu=relu: norm64(wide.relu() if relu else wide, towers),  # type: ignore[misc]
                x,
            )
    assert_same(norms.spatial_norm, spatial64, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_of_equal_maxima_gets_the_gradient(dtype: torch.dtype) -> None:
    """As torch's own: also of zeros behind a ReLU, of infinities, and of windows full of one number."""
    x = maps((2, 16, 7, 8), dtype, scale=1.0).round()
    x[0, :, :3, :3] = float("-inf")
    x[1, :, 3:, 3:] = float("inf")
    for relu in (False, True):
        own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = pooling.max_pool(own, 3, relu)
        expected = pool64(other, 3)
        expected = expected.relu() if relu else expected
        g = torch.randint(1, 9, tuple(y.shape)).to(dtype)
        y.backward(g)  # type: ignore[no-untyped-call]
        expected.backward(g)  # type: ignore[no-untyped-call]
        assert torch.equal(y, expected)
        assert own.grad is not None and other.grad is not None
        assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1e15, 1e25, 1e37])
def test_extreme_numbers(scale: float, dtype: torch.dtype) -> None:
    """Neither too small nor too large for a square in float32 makes a NaN."""
    x = maps((1, 12, 5, 5), torch.float32, scale=1.0).clamp(-2, 2).mul(scale).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    for y, expected in (
        (norms.local_response_norm(x, 2, 1e-4, False), norm64(x.double(), 2, 1e-4)),
        (norms.spatial_norm(x), spatial64(x.double())),
        (
            pooling.norm_and_pool(x, 2, 1e-4, 3, relu_first=False, relu_last=True),
            pool64(norm64(x.double(), 2, 1e-4), 3).relu(),
        ),
    ):
        assert bool(y.isfinite().all())
        least = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=1e-8 if scale > 1 else least)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_comes_through(bad: float, dtype: torch.dtype) -> None:
    x = maps((1, 6, 5, 5), dtype)
    x[0, 4, 2, 2] = bad
    for y in (
        norms.local_response_norm(x, 2, ALPHA, False),
        norms.spatial_norm(x),
        pooling.norm_and_pool(x, 2, ALPHA, 3, relu_first=False, relu_last=True),
        pooling.norm_and_pool(x, 2, ALPHA, 2, relu_first=False, relu_last=False),
    ):
        assert not bool(y.isfinite().all())
    x[0, 4, 2, 2] = float("nan")
    for pool_size in (2, 3):
        for relu in (False, True):
            y = pooling.max_pool(x, pool_size, relu)
            assert y.isnan().equal(pool64(x, pool_size).isnan())
            y = pooling.norm_and_pool(x, 2, ALPHA, pool_size, relu_first=relu, relu_last=relu)
            assert bool(y[0, 4, 1, 1].isnan())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("net", ["145", "167", "paper", "147"])
def test_a_nan_in_an_image_reaches_the_loss(net: str, dtype: torch.dtype) -> None:
    model = AlexNet(small(NETS[net]))
    model.initialize(0)
    images = maps((2, 3, 67, 67), dtype)
    images[1, 2, 30, 31] = float("nan")
    weights = model.working_weights(dtype)
    loss, _ = loss_and_errors(
        model(images, DropoutKey(torch.tensor(step_key(0, 0))), weights=weights), torch.tensor([1, 2])
    )
    assert bool(loss.isnan())


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_images(dtype: torch.dtype) -> None:
    x = maps((0, 4, 5, 5), dtype).requires_grad_()
    for y in (
        norms.local_response_norm(x, 2, ALPHA, True),
        norms.spatial_norm(x),
        pooling.max_pool(x, 3, True),
        pooling.norm_and_pool(x, 2, ALPHA, 3, relu_first=True, relu_last=False),
    ):
        assert len(y) == 0
        y.sum().backward()  # type: ignore[no-untyped-call]
    assert fold_images(maps((0, 3, 67, 67), torch.float32), 17, dtype).shape == (0, 48, 17, 17)


def test_maps_that_lie_otherwise() -> None:
    """Neither NCHW maps, nor a slice of larger ones, nor a gradient that is one number spread out."""
    x = torch.randn(2, 8, 9, 9)[:, 2:6] * 50
    own, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    pooling.norm_and_pool(own, 2, ALPHA, 3, relu_first=False, relu_last=True).sum().backward()  # type: ignore[no-untyped-call]
    pool64(norm64(wide, 2), 3).relu().sum().backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None and wide.grad is not None
    torch.testing.assert_close(own.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [224, 67, 35, 64, 11])
def test_folding(size: int, dtype: torch.dtype) -> None:
    images, cells = maps((3, 3, size, size), torch.float32), conv1_size(size) + 2
    folded = fold_images(images, cells, dtype)
    expected = fold_images(images.double(), cells, torch.float64)  # in plain torch
    assert folded.dtype == dtype and folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(folded, expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (19, 4096)])
def test_dropout(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """The mask is that of plain torch to the bit, forward and back; what is dropped is 0 whatever it was."""
    x = torch.randn(shape).to(dtype)
    x[0, 0] = float("nan")
    key = DropoutKey(torch.tensor(step_key(7, 2**31)), first_row=5)
    mask = dropout_mask(key, 6, *shape, 2048, 0.5)
    own = x.clone().requires_grad_()
    y = dropout.drop(own, key, 6, 2048, 0.5)
    y.backward(torch.full_like(y, 3))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(y, torch.where(mask, x, 0), rtol=0, atol=0, equal_nan=True)
    assert own.grad is not None
    assert torch.equal(own.grad, mask * torch.full_like(x, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (5000,), (7, 3, 11, 11), (64, 513)])
@pytest.mark.parametrize("alive", [True, False])
def test_update(shape: tuple[int, ...], alive: bool, dtype: torch.dtype) -> None:
    def tensor(seed: int, kind: torch.dtype) -> torch.Tensor:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)
        return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values

    own = [tensor(0, torch.float32), tensor(1, torch.float32)]
    gradient, working = tensor(2, dtype), None if dtype == torch.float32 else tensor(0, dtype)
    wide = [each.double() for each in own]
    options: dict[str, Any] = {"momentum": 0.9, "decay": 5e-4, "alive": torch.tensor(alive)}
    options |= {"rate": torch.tensor(0.01, dtype=torch.float64), "gradient_scale": torch.tensor(0.25)}
    before = [each.clone() for each in own]
    update.update(own[0], own[1], gradient, working, **options)
    update.update(wide[0], wide[1], gradient.double(), None, **options)  # in plain torch
    for ours, expected, start in zip(own, wide, before, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=5e-7)
        assert torch.equal(ours, start) != alive
    if working is not None and alive:
        assert torch.equal(working, own[0].to(dtype))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    x = maps((7, 34, 9, 9), dtype)
    weights = torch.randn(600_000, generator=torch.Generator().manual_seed(3))
    found = []
    for number in (1, 2, 5):
        threads(number)
        results = []
        for loop in (
            lambda own: pooling.norm_and_pool(own, 2, ALPHA, 3, relu_first=True, relu_last=False),
            lambda own: pooling.max_pool(own, 3, True),
            lambda own: norms.local_response_norm(own, 2, ALPHA, True),
            norms.spatial_norm,
        ):
            own = x.clone().requires_grad_()
            y = loop(own)
            y.backward(maps(tuple(y.shape), dtype, seed=1))  # type: ignore[no-untyped-call]
            results += [y.detach(), own.grad]
        w, v = weights.clone(), weights.flip(0).contiguous()
        cpu.update(w, v, weights.to(dtype), None, 0.1, 1e-3, 0.9)
        found.append([*results, w, v])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))  # type: ignore[arg-type]
