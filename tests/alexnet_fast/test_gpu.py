"""What only a GPU can show: the same numbers as on a CPU, no waiting, and a recorded step that is the step."""

from __future__ import annotations

import pytest
import torch

from alexnet_fast.kernels import norms, plain
from alexnet_fast.model import NETS, AlexNet, small
from alexnet_fast.optimizer import SGD
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.precision import Precision
from alexnet_fast.step import TrainingStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NET = small(NETS["145"], divisor=2, image_size=131)
FP32 = Precision("fp32", torch.float32, "")
BF16 = Precision("bf16", torch.bfloat16, "")
STEPS = 8


def pictures(step: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 3, 131, 131, generator=generator) * 60
    labels = torch.randint(0, 10, (16,), generator=generator)
    return Batch(images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device))


def make(device: str, precision: Precision, cuda_graph: bool = False) -> TrainingStep:
    model = AlexNet(NET).to(device)
    model.initialize(1)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=precision, cuda_graph=cuda_graph)


def train(step: TrainingStep) -> list[float]:
    device = step.device.type
    results = [step(pictures(number, device), step=number, seed=0) for number in range(STEPS)]
    step.drain()
    return [float(result.loss) for result in results]


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_gpu_and_cpu_train_alike(precision: Precision) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    expected = train(make("cpu", FP32))
    assert train(make("cuda", precision)) == pytest.approx(expected, rel=1e-4 if precision is FP32 else 0.05)


def test_a_recorded_step_is_the_step() -> None:
    eager, recorded = make("cuda", BF16), make("cuda", BF16, cuda_graph=True)
    assert train(recorded) == pytest.approx(train(eager), rel=1e-3)
    for name, parameter in eager.parameters.items():
        torch.testing.assert_close(recorded.parameters[name], parameter, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_step_waits_for_nothing(cuda_graph: bool) -> None:
    step = make("cuda", BF16, cuda_graph)
    train(step)
    batches = [pictures(number, "cuda") for number in range(2)]
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
