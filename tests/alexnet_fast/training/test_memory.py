"""What training is estimated to take of a device's memory, against counts by hand."""

from __future__ import annotations

import pytest
import torch

from alexnet_fast.network.model import NETS
from alexnet_fast.training.memory import TEMPORARIES, kept_bytes, largest_batch, training_bytes

NET = NETS["167"]
BOTH = (0, 1)
PARAMETERS = 61_000_000
"""Of the network of 2012, about."""


def test_training_takes_weights_and_what_a_step_keeps() -> None:
    kept = kept_bytes(NET, torch.bfloat16, BOTH)
    lasting = training_bytes(NET, torch.bfloat16, BOTH, images=0, evaluated=0)
    assert lasting == pytest.approx(PARAMETERS * (4 + 4 + 2 + 2), rel=0.03)
    assert training_bytes(NET, torch.bfloat16, BOTH, images=1000, evaluated=128) == pytest.approx(
        lasting + TEMPORARIES * kept * 1000 + kept * 128
    )


def test_an_evaluation_takes_its_memory_beside_a_captured_step() -> None:
    both, alone = (training_bytes(NET, torch.bfloat16, BOTH, images=16, evaluated=size) for size in (128, 0))
    assert both - alone == pytest.approx(kept_bytes(NET, torch.bfloat16, BOTH) * 128)


def test_one_tower_takes_about_half() -> None:
    both, one = (training_bytes(NET, torch.bfloat16, towers, images=512, evaluated=0) for towers in (BOTH, (1,)))
    assert 0.5 < one / both < 0.65


def test_what_the_loader_takes_leaves_room_for_fewer_images() -> None:
    kept = TEMPORARIES * kept_bytes(NET, torch.bfloat16, BOTH)
    available = int(3200 * kept)
    assert largest_batch(NET, torch.bfloat16, available, BOTH) == 3200
    assert largest_batch(NET, torch.bfloat16, available, BOTH, loading=kept) == 1600
