"""DALI's complaints become sentences with the right remedy, and images are searched for only where one is bad."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from alexnet_fast.pipelines.diagnosis import Shards
from alexnet_fast.pipelines.loader import EvaluationLoader
from alexnet_fast.pipelines.pipeline_run import Execution, explained
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError

DECODER = """Critical error in pipeline:
Error in MIXED operator `nvidia.dali.fn.decoders.image`,
which was used in the pipeline definition with the following traceback:

  File "decoding.py", line 25, in decode
    preallocate_width_hint=decoding.size,  # out of memory, Failed to decode

encountered:

{reason}
Current pipeline object is no longer valid."""
MEMORY = "out of memory with 64 images a batch and a prefetch of 3 on cuda:0"
NO_GPU = "no usable GPU for cuda:0.*--device cpu"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Can't allocate 1073741824 bytes on device 0.", MEMORY),
        ("Can't allocate 4096 bytes on host.", MEMORY),
        ("CUDA allocation failed", MEMORY),
        ("std::bad_alloc", MEMORY),
        ("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory", MEMORY),
        ("CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY (2):\nout of memory", MEMORY),
        ("nvImageCodec failure: '#5'", MEMORY),
        ("nvImageCodec failure: '#6'", "DALI stopped: nvImageCodec failure: '#6'"),
        ("Insufficient driver: 11040 < 12000", NO_GPU),
        ("You are trying to create a GPU DALI pipeline while CUDA is not available.", NO_GPU),
        ("CUDA runtime API error cudaErrorInsufficientDriver (35):\nCUDA driver version is insufficient", NO_GPU),
        ("CUDA driver API error CUDA_ERROR_NO_DEVICE (100):\nno CUDA-capable device is detected", NO_GPU),
        (
            "CUDA driver API error CUDA_ERROR_ILLEGAL_ADDRESS (700):\nan illegal memory access was encountered",
            "DALI stopped: CUDA driver API error CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        (
            "Failed to decode sample #7 : /data/a b:c/train-000001.tar:96768:ring_0003.jpg",
            "^/data/a b:c/train-000001.tar: ring_0003 .*alexnet-fast verify",
        ),
    ],
)
def test_complaints(reason: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(shards: Shards) -> str | None:
        raise AssertionError("the whole split was searched for an image")

    monkeypatch.setattr("alexnet_fast.pipelines.pipeline_run.find_unusable", search)
    error = RuntimeError(DECODER.format(reason=reason))
    message = explained(error, Execution(64, torch.device("cuda", 0), 4, 3), Shards([], 256))
    assert re.search(words, str(message)), message


def test_decoded_images_are_among_what_takes_memory() -> None:
    execution = Execution(64, torch.device("cuda", 0), 4, 3, cache_mib=70 * 1024)
    message = str(explained(RuntimeError(DECODER.format(reason="CUDA allocation failed")), execution))
    assert (
        f"{MEMORY}, beside 70.0 GiB of decoded images" in message and "(--cache-decoded), or make the batch" in message
    )


def test_memory_that_python_was_refused() -> None:
    assert re.search(MEMORY, str(explained(MemoryError(), Execution(64, torch.device("cuda", 0), 4, 3))))


@pytest.mark.parametrize("damage", ["head", "end"])
def test_the_image_is_named(tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    """DALI names an image that is cut short, and not one that it does not know for an image."""
    folder = tmp_path / "shards"
    shutil.copytree(tiny_shards, folder)
    file = folder / "train-000001.tar"
    with tarfile.open(file) as tar:
        member = tar.getmembers()[7]
    content = bytearray(file.read_bytes())
    start = member.offset_data if damage == "head" else member.offset_data + member.size - 2
    content[start : start + 2] = bytes(2)
    file.write_bytes(content)
    loader = EvaluationLoader(Dataset.load(folder), split="train", batch_size=10, device=torch.device("cpu"))
    with pytest.raises(UserError, match=rf"train-000001\.tar: {Path(member.name).stem} .*verify"):
        list(loader)
    assert ("looking for it in all shards" in capsys.readouterr().err) == (damage == "head")
