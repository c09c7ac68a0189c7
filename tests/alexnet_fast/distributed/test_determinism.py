"""`--deterministic`: what it switches on, what it costs, and that it says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.distributed.devices import be_deterministic, cost_of_determinism
from alexnet_fast.network.dropout import DropoutKey
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.training.run import train


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def gradients() -> list[torch.Tensor]:
    model = AlexNet(small(NETS["145"]))
    model.initialize(0)
    images = torch.randn(4, 3, 67, 67, generator=torch.Generator().manual_seed(1)) * 50
    model(images, DropoutKey(torch.tensor(5))).square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_a_cpu_computes_the_same_without_it() -> None:
    without = gradients()
    be_deterministic()
    assert len(without) == 16
    assert all(torch.equal(one, other) for one, other in zip(without, gradients(), strict=True))


def test_no_new_tensor_is_filled() -> None:
    be_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert not bool(torch.empty(2**16).isnan().all())  # torch would fill with NaN


def test_a_gpu_user_hears_how_to_measure_it() -> None:
    assert "alexnet-fast bench model" in cost_of_determinism(torch.device("cuda"))


def test_train_says_what_it_costs(tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["width_divisor=16", "batch_size=8", "lr_base_batch_size=8", "epochs=0.2", "final_views=1"]
    train(tiny_dataset, load_recipe("2013", settings), tmp_path / "run", device="cpu", deterministic=True)
    captured = capsys.readouterr()
    assert cost_of_determinism(torch.device("cpu")) in captured.out + captured.err
    assert torch.are_deterministic_algorithms_enabled()
