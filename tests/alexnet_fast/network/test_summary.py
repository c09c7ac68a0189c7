"""The table and the diagram of a network: counted otherwise, and drawn from the architecture."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alexnet_fast.distributed.parallelism import bytes_as_towers
from alexnet_fast.inference.plain import PlainAlexNet
from alexnet_fast.network.diagram import FORMATS, Diagram, draw_diagram
from alexnet_fast.network.model import NETS, Architecture
from alexnet_fast.network.summary import summarize, table

ABLATIONS = {
    **NETS,
    "tanh": Architecture(activation="tanh"),
    "two norms": Architecture(norms=("conv1", "conv2")),
    "no dropout": Architecture(dropout=0.0),
}


@pytest.mark.parametrize("net", NETS)
def test_parameters_and_arithmetic_are_those_of_an_ordinary_module(net: str) -> None:
    """PyTorch's own counter over nn.Conv2d and nn.Linear; nothing is computed."""
    rows = {row.name: row for row in summarize(NETS[net])}
    with torch.device("meta"):
        plain = PlainAlexNet(NETS[net]).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            plain(torch.empty(1, 3, 224, 224))
    counts = counter.get_flop_counts()
    for name, row in rows.items():
        module = plain.get_submodule(name)
        assert row.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert row.macs == sum(counts[f"PlainAlexNet.{name}"].values()) // 2


@pytest.mark.parametrize("net", NETS)
def test_exchanged_bytes_are_those_by_which_train_chooses(net: str) -> None:
    exchanged = sum(row.exchanged for row in summarize(NETS[net]))
    if NETS[net].num_towers == 1:
        assert exchanged == 0
        return
    images = 3 * 224**2 / 2
    assert (exchanged + images) * 128 * 2 == bytes_as_towers(NETS[net], 128, 2, torch.bfloat16)
    total = table(NETS[net], batch_size=128, bytes_per_value=2).splitlines()[-1]
    assert total.endswith(f"{(exchanged + images) * 256 / 1e6:.1f} MB")


def test_the_table_says_who_sees_what() -> None:
    lines = {line.split()[0]: line for line in table(NETS["145"], batch_size=128, bytes_per_value=4).splitlines()}
    assert re.search(
        r"2 × 48 +55 × 55 +11 × 11 × 3, stride 4 +the image +norm, max pool 3/2, ReLU → 27 × 27", lines["conv1"]
    )
    assert re.search(r"2 × 128 .* own tower +ReLU, norm, norm in the map, max pool 3/2 → 13 × 13", lines["conv2"])
    assert re.search(r"both towers .* 885,120 +149.5 M +22.2 MB$", lines["conv3"])
    assert "60,965,224" in lines["total"] and "724.4 M" in lines["total"]
    paper = table(NETS["paper"], batch_size=1, bytes_per_value=2)
    assert "ReLU, norm, max pool 3/2 → 27 × 27" in paper and "norm in the map" not in paper
    inverted = table(replace(NETS["145"], dropout_inverted=True), batch_size=1, bytes_per_value=2)
    assert "dropout 0.5 (inverted)" in inverted
    assert "sees" not in table(NETS["145-half"], batch_size=1, bytes_per_value=2)


@pytest.mark.parametrize("net", ABLATIONS)
def test_the_diagram_shows_the_architecture(net: str) -> None:
    architecture = ABLATIONS[net]
    axes = Diagram(architecture).draw().axes[0]
    words = [line for text in axes.texts for line in text.get_text().splitlines()]
    towers = architecture.num_towers
    for row in summarize(architecture):
        assert row.name in words
        maps = row.maps if row.name == "fc8" else row.maps // towers
        assert words.count(f"{maps}") >= (1 if row.name == "fc8" else towers)
    sizes = [size for row in summarize(architecture)[:5] for size in 2 * towers * [f"{row.size}"]]
    assert all(words.count(size) >= sizes.count(size) for size in sizes)
    assert words.count("dropout 0.5") == (0 if net == "no dropout" else 2)
    assert f"max pooling {architecture.pool_size}/2" in words
    assert ("tower 1" in words) == (towers == 2)
    # Windows: conv1 and conv3 look at what both towers see, where they do; each has four lines and is a patch.
    crossing = 2 if architecture.exchanged and towers == 2 else 0
    assert len(axes.lines) == 4 * (5 * towers + crossing) + 5 * towers + (towers == 2)


def test_diagram_files() -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert set(starts) == set(FORMATS)
    for suffix, start in starts.items():
        drawn = draw_diagram(NETS["167"], suffix)
        assert drawn.startswith(start)
        assert drawn == draw_diagram(NETS["167"], suffix)
