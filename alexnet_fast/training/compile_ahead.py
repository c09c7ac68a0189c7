"""Compile the loops that train on this machine's CPU, so that no run has to: `python -m` this module, once.

Takes some ten seconds; without it the first run takes them.  Where the machine code is kept: `tools.compilation`.
"""

from __future__ import annotations

import torch

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep


def compile_ahead(precision: str = "auto") -> None:
    """A step of each order of layers that a recipe may have, on tiny images."""
    chosen = choose_precision(torch.device("cpu"), precision)
    images = torch.zeros(1, 3, 67, 67).contiguous(memory_format=torch.channels_last)
    for net in ("167", "145"):
        model = AlexNet(small(NETS[net]))
        model.initialize(0)
        optimizer = SGD(model)
        optimizer.set_rates(weights=1e-3, biases=1e-3)
        step = TrainingStep(model, optimizer, precision=chosen)
        step(Batch(images, torch.zeros(1, dtype=torch.int64)), step=0, seed=0)


if __name__ == "__main__":
    compile_ahead()
