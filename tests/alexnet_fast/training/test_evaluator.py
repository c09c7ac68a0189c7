"""In which precision the evaluation at the end is made."""

from __future__ import annotations

import pytest
import torch

from alexnet_fast.training.evaluator import final_dtype

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("training", "epochs", "views", "expected"),
    [
        (torch.bfloat16, 95, 10 * 50_000, torch.float32),
        (torch.float16, 93, 10 * 150_000, torch.float32),
        (torch.bfloat16, 95, 50_000, torch.float32),
        (torch.bfloat16, 2, 10 * 50_000, torch.bfloat16),
        (torch.float32, 2, 10 * 50_000, torch.float32),
        (torch.float64, 95, 10, torch.float64),
    ],
)
def test_the_last_evaluation_is_in_float32_where_it_is_cheap(
    training: torch.dtype, epochs: int, views: int, expected: torch.dtype
) -> None:
    assert final_dtype(training, trained=epochs * IMAGENET, views=views) == expected


def test_a_tenth_of_the_run_is_the_limit() -> None:
    """16 times as slow as a forward pass, of which a training image costs three."""
    assert final_dtype(torch.bfloat16, trained=1600, views=29) == torch.float32
    assert final_dtype(torch.bfloat16, trained=1600, views=31) == torch.bfloat16
