"""What the server of `tests.forked` imports and loads, so that no process forked from it has to.

It starts no threads but OpenBLAS's, which restarts them after a fork: a forked process would wait for others in vain.
"""

from __future__ import annotations

import matplotlib.pyplot
import torch
import torch.utils.tensorboard

import alexnet_fast.commands.train_command
import alexnet_fast.pipelines.loader
import alexnet_fast.tools.sharding.worker
import alexnet_fast.training.trainer  # noqa: F401
from alexnet_fast.training.compile_ahead import compile_ahead

matplotlib.use("Agg")
num_threads = torch.get_num_threads()
torch.set_num_threads(1)  # then neither torch nor the compiled loops start any
compile_ahead("fp32")
torch.set_num_threads(num_threads)
