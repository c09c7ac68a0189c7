"""The trainer's benchmark on several processes."""

from __future__ import annotations

from alexnet_fast.bench.train import measure_processes
from alexnet_fast.config.recipe import recipe
from alexnet_fast.tools.dataset import Dataset


def test_two_processes_train_together(tiny_dataset: Dataset) -> None:
    small = recipe("2013", width_divisor=16, batch_size=4, lr_base_batch_size=4, precision="fp32")
    row = measure_processes(tiny_dataset, small, gpus=None, processes=2)
    assert row.name == "training end to end, 2 processes" and row.rate > 0
    assert row.details["batch size"] == 4
