"""Labels from what the shards hold of them."""

from __future__ import annotations

import numpy as np
import torch

from alexnet_fast.pipelines.reader import labels_of


def test_labels_are_the_numbers_that_their_digits_spell() -> None:
    numbers = [0, 7, 90, 999, 12_345, 99_999]
    text = b"".join(b"%05d" % number for number in numbers)
    digits = torch.from_numpy(np.frombuffer(bytearray(text), np.uint8).reshape(-1, 5))
    labels = labels_of(digits)
    assert labels.dtype == torch.int64 and labels.tolist() == numbers
    # On a device without values nothing can look at one: on a GPU the host does not wait.
    assert labels_of(digits.to("meta")).shape == (6,)
