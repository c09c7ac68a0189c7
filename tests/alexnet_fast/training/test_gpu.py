"""What only a GPU can show: the same numbers as on a CPU, no waiting, and a recorded step that is the step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.network.dropout import DropoutKey, drop, dropout_mask
from alexnet_fast.network.kernels import norms, plain
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.runs.checkpoint import load_checkpoint, saved_checkpoints
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.run import train as train_run
from alexnet_fast.training.train_step import TrainingStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NET = small(NETS["145"], divisor=2, image_size=131)
FP32 = Precision("fp32", torch.float32, "")
BF16 = Precision("bf16", torch.bfloat16, "")
STEPS = 8


def random_batch(step: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 3, 131, 131, generator=generator) * 60
    labels = torch.randint(0, 10, (16,), generator=generator)
    return Batch(images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device))


def make(device: str, precision: Precision, record: bool = False) -> TrainingStep:
    model = AlexNet(NET).to(device)
    model.initialize(1)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=precision, record=record)


def train(step: TrainingStep) -> list[float]:
    device = step.device.type
    results = [step(random_batch(number, device), step=number, seed=0) for number in range(STEPS)]
    step.drain()
    return [float(result.loss) for result in results]


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_gpu_and_cpu_train_alike(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU float32 is a ten-thousandth from float64 after these steps; bfloat16 less than a thousandth."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of products it is so anyway
    expected = train(make("cpu", FP32))
    assert train(make("cuda", precision)) == pytest.approx(expected, rel=1e-3 if precision is FP32 else 1e-2)


def test_a_recorded_step_is_the_step() -> None:
    """Sums whose order is open differ between two runs: weights by some 1e-4 after these steps."""
    eager, recorded = make("cuda", BF16), make("cuda", BF16, record=True)
    assert train(recorded) == pytest.approx(train(eager), rel=1e-3)
    for name, parameter in eager.parameters.items():
        torch.testing.assert_close(recorded.parameters[name], parameter, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("record", [False, True])
def test_a_step_waits_for_nothing(record: bool) -> None:
    step = make("cuda", BF16, record)
    train(step)
    batches = [random_batch(number, "cuda") for number in range(2)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches):
            step(batch, step=number, seed=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_norms_at_full_size(dtype: torch.dtype) -> None:
    x = (torch.randn(8, 96, 55, 55, device="cuda") * 50).to(dtype).contiguous(memory_format=torch.channels_last)
    assert norms.kernels_for(x).__name__.endswith("triton_norms")  # type: ignore[attr-defined]
    ours = norms.local_response_norm(x, 2, 1e-4, relu=True)
    expected = plain.channel_forward(x.double(), 2, 1e-4, True)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5 if dtype == torch.float32 else 4e-3, atol=1e-5)
    g = torch.randn(8, 96, 55, 55, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
    back = norms.kernels_for(x).channel_backward(g, x, 2, 1e-4, True, None)
    expected = plain.channel_backward(g.double(), x.double(), 2, 1e-4, True)
    torch.testing.assert_close(back.double(), expected, rtol=1e-4 if dtype == torch.float32 else 4e-3, atol=1e-5)
    spatial = norms.spatial_norm(x)
    expected = plain.spatial_forward(x.double())
    torch.testing.assert_close(spatial.double(), expected, rtol=1e-5 if dtype == torch.float32 else 4e-3, atol=1e-5)


def test_nan_passes_the_relu_of_a_norm() -> None:
    x = torch.zeros(1, 8, 2, 2, device="cuda").contiguous(memory_format=torch.channels_last)
    x[0, 1, 1, 1] = float("nan")
    assert bool(norms.local_response_norm(x, 2, 1e-4, relu=True)[0, 1, 1, 1].isnan())


def test_dropout_both_ways() -> None:
    key = DropoutKey(torch.tensor(12345, device="cuda"), first_row=3)
    x = torch.randn(16, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    y = drop(x, key, 6, 2048, 0.5)
    y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
    mask = dropout_mask(key, 6, 16, 4096, 2048, 0.5)
    assert torch.equal(y, torch.where(mask, x, 0))
    assert x.grad is not None
    assert torch.equal(x.grad, mask.to(x.dtype))


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_train_on_a_gpu(tiny_dataset: Dataset, tmp_path: Path, cuda_graph: bool) -> None:
    settings = [
        "width_divisor=16",
        "batch_size=8",
        "lr_base_batch_size=8",
        "epochs=2",
        f"cuda_graph={cuda_graph}".lower(),
    ]
    result = train_run(tiny_dataset, load_recipe("2013", settings), tmp_path / "run", device="cuda", quiet=True)
    assert result["steps"] == 14
    assert result["10_views"]["num_samples"] == 30


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["towers", "data"])
def test_train_on_two_gpus(tiny_dataset: Dataset, tmp_path: Path, parallel: str) -> None:
    settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=2"]
    recipe = load_recipe("2013", settings)
    result = train_run(tiny_dataset, recipe, tmp_path / "run", gpus=2, parallel=parallel, quiet=True)
    assert result["steps"] == 14
    assert result["10_views"]["num_samples"] == 30


def test_a_run_that_keeps_decoded_images(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=3", "final_views=1"]
    recipe = load_recipe("2013", settings)
    result = train_run(tiny_dataset, recipe, tmp_path / "run", device="cuda", quiet=True, cache_decoded="auto")
    assert result["steps"] == 21 and result["decoded_images_gib"] == 0.01
    with pytest.raises(UserError, match="GiB free"):
        train_run(tiny_dataset, recipe, tmp_path / "other", device="cuda", quiet=True, cache_decoded=1e6)


def test_deterministic_runs_are_equal_bit_for_bit(tiny_dataset: Dataset, tmp_path: Path) -> None:
    weights = []
    settings = ("width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=2")
    sets = [word for setting in settings for word in ("--set", setting)]
    for run in (tmp_path / "one", tmp_path / "other"):
        command = [sys.executable, "-m", "alexnet_fast.cli", "train", str(tiny_dataset.folder), "--deterministic"]
        subprocess.run([*command, *sets, "--device", "cuda", "--out", str(run)], check=True)
        weights.append(load_checkpoint(saved_checkpoints(run / "checkpoints")[-1]).model)
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
