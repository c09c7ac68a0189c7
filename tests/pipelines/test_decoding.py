"""What DALI is asked for, as far as it can be checked without a GPU: a graph with its decoder is defined, not built."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from alexnet_fast.pipelines.dali import Pipeline
from alexnet_fast.pipelines.decoding import Decoding, decode_nothing
from alexnet_fast.pipelines.pipeline_run import CacheKeeper, Execution
from alexnet_fast.tools.errors import UserError


def defined(decoding: Decoding) -> bytes:
    """The pipeline as DALI writes it down, after its schema has taken the operators' arguments."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(decode_nothing(decoding))
    return bytes(pipeline.serialize())


def test_dali_takes_the_arguments_of_the_cache() -> None:
    text = defined(Decoding("mixed", 256, 0.5, cache_mib=300))
    name, kind = b"cache_size\x12\x05int64", b"cache_type\x12\x06string*\tthreshold"
    assert name + b" \xac\x02" in text and kind in text  # 300 as a varint


def test_a_decoder_without_a_cache_asks_for_none() -> None:
    assert b"cache" not in defined(Decoding("mixed", 256, 0.5))
    assert b"cache" not in defined(Decoding("cpu", 256, 0.5, cache_mib=300))


@pytest.mark.parametrize(
    ("decoding", "words"),
    [
        (Decoding("cpu", 256), "cpu"),
        (Decoding("cpu", 256, cache_mib=3), "cpu"),
        (Decoding("mixed", 256, 0.5), "mixed, 0.5 by the JPEG engines"),
        (Decoding("mixed", 256, 0.5, cache_mib=3), "mixed, 0.5 by the JPEG engines, kept as first decoded"),
        # One decoder makes the same pixels each time, kept or not.
        (Decoding("mixed", 256, 0.0, cache_mib=3), "mixed, 0 by the JPEG engines"),
        (Decoding("mixed", 256, 1.0, cache_mib=3), "mixed, 1 by the JPEG engines"),
    ],
)
def test_all_that_decides_the_pixels_is_reported(decoding: Decoding, words: str) -> None:
    assert decoding.describe() == words


def test_a_keeper_is_built_never_run_and_gone_at_once() -> None:
    """With a decoder of the CPU in it: DALI's cache must not outlast the keeper until the garbage is collected."""
    keeper = CacheKeeper(Decoding("cpu", 256), Execution(4, torch.device("cpu"), num_threads=1, prefetch=2))
    pipeline = weakref.ref(keeper._pipeline)
    gc.disable()
    try:
        del keeper
        assert pipeline() is None
    finally:
        gc.enable()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_keeper_without_a_gpu_says_so() -> None:
    execution = Execution(4, torch.device("cuda", 0), num_threads=1, prefetch=2, cache_mib=300)
    with pytest.raises(UserError, match="no usable GPU for cuda:0"):
        CacheKeeper(Decoding("mixed", 256, 0.5, cache_mib=300), execution)
