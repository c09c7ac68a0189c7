"""Towers and replicas in processes of their own are the same network as one process, to the ninth digit."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.distributed.launcher import launch
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.distributed.parallelism import Layout
from alexnet_fast.training.divergence import DivergedError

CPU = torch.device("cpu")
WORLDS = {"1x2": (2, True), "2x1": (2, False), "2x2": (4, True)}
"""replicas × processes a replica."""


@pytest.fixture(scope="module")
def work() -> Any:
    """The module with the processes' work, found by them too: they get this process's path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("OMP_NUM_THREADS", "1")
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other
        yield importlib.import_module("split_work")
        torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def alone(work: Any) -> Any:
    """(net 145 for 20 steps, nothing, net 150 for 3 steps, state after 10 steps) in one process."""
    return work.train_all(Mesh(), CPU, None)


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        error, largest = float((ours[name] - tensor).abs().max()), float(tensor.abs().max())
        assert error <= 1e-9 * largest, f"{name} differs by {error}, its largest value is {largest}"


@pytest.mark.parametrize("world", WORLDS)
def test_any_topology_is_the_same_network(work: Any, alone: Any, world: str) -> None:
    num_processes, split = WORLDS[world]
    layout = Layout(CPU, num_processes, split, "")
    expected, _, expected_150, state = alone
    whole, second_half, net_150, state_there = launch(layout, work.train_all, state)

    assert_same(whole.start, expected.start)
    for run, reference in ((whole, expected), (net_150, expected_150)):
        assert run.losses == pytest.approx(reference.losses, rel=1e-9)
        assert run.errors == reference.errors
        assert_same(run.gradients, reference.gradients)
        assert_same(run.weights, reference.weights)
        assert_same(run.momentum, reference.momentum)

    # A state moves in (from one process to this world) and out (from this world to one process).
    assert_same(second_half.weights, expected.weights)
    assert_same(second_half.momentum, expected.momentum)
    moved_out = work.train(Mesh(), "145", range(10, 20), state_there)
    assert_same(moved_out.weights, expected.weights)


def test_the_comparison_is_not_empty(alone: Any) -> None:
    run = alone[0]
    assert all(gradient.abs().max() > 1e-7 for gradient in run.gradients.values())
    assert all(not torch.equal(run.weights[name], run.start[name]) for name in run.start)
    assert len(set(run.losses)) == 20


@pytest.mark.parametrize("split", [True, False])
def test_images_that_travel_during_the_step_before_change_nothing(work: Any, split: bool) -> None:
    expected, ahead, begun = launch(Layout(CPU, 2, split, ""), work.train_with_images_ahead)
    assert all(torch.equal(ahead[name], tensor) for name, tensor in expected.items())
    steps = [f"step {number}" for number in range(6)]
    if not split:  # there is no peer to exchange with
        assert begun == steps
        return
    # Step 2 and the last take none: between 2 and 3 a checkpoint would lose nothing.
    third = ["images", "images", "{}", "images", "{}", "{}"]
    assert begun == [word.format(steps.pop(0)) if word == "{}" else word for word in third * 2]


@pytest.mark.parametrize("world", WORLDS)
def test_a_step_of_several_processes_can_be_captured(work: Any, world: str) -> None:
    """It makes the host wait for nothing, the same collectives in the same order on every rank, and a capture's
    warm-up, whose update is switched off, changes no bit.
    """
    num_processes, split = WORLDS[world]
    collectives, waits, unchanged = launch(Layout(CPU, num_processes, split, ""), work.record_a_step)
    assert unchanged and not any(waits)
    assert len(collectives[0]) >= 3
    for rank, own in enumerate(collectives):
        # A tower sends the other's half of an odd number of classes: sizes may differ by one, kinds may not.
        assert [line.split()[0] for line in own] == [line.split()[0] for line in collectives[0]], rank
    if split:
        assert any("c10d.send" in line for line in collectives[0])
    for first, second in zip(collectives, collectives[2 if split else 1 :], strict=False):
        assert first == second  # the same tower of two replicas, or two replicas of both: the same sizes too


@pytest.mark.parametrize("split", [True, False])
def test_every_process_notices_one_bad_image(work: Any, split: bool) -> None:
    with pytest.raises(DivergedError, match=r"step 41: the loss or a gradient is .*; the first to blame is the images"):
        launch(Layout(CPU, 2, split, ""), work.diverge)


@pytest.mark.parametrize("split", [True, False])
def test_the_earliest_layer_is_blamed_whichever_process_has_it(work: Any, split: bool) -> None:
    with pytest.raises(DivergedError, match="the first to blame is the output of conv2"):
        launch(Layout(CPU, 2, split, ""), work.diverge_in_the_last_process)
