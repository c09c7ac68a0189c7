"""Figure 1's experiment, on a data set that is learned in seconds."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.experiments import four_layers
from alexnet_fast.experiments import relu_vs_tanh as experiment_module
from alexnet_fast.experiments.cifar import Cifar
from alexnet_fast.experiments.four_layers import (
    ACTIVATIONS,
    STARTS,
    Training,
    epochs_to_goal,
    forward,
    initial_state,
    prepare,
)
from alexnet_fast.experiments.relu_vs_tanh import Experiment, Outcome, Trial, relu_vs_tanh, table
from alexnet_fast.runs.lock import InUseError
from alexnet_fast.tools.errors import UsageError, UserError

CPU = torch.device("cpu")
FLOAT32 = choose_precision(CPU, "fp32")


def silent(text: str) -> None: ...


@pytest.fixture(scope="module")
def easy() -> Cifar:
    """Two classes, bright above and bright below."""
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = random.integers(0, 120, (64, 32, 32, 3), np.uint8)
    images[labels == 0, :16] += 100
    images[labels == 1, 16:] += 100
    return Cifar(images, labels, images[:10], labels[:10], ("above", "below"), "made up")


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch, easy: Cifar) -> None:
    monkeypatch.setattr(four_layers, "BATCH_SIZE", 32)
    monkeypatch.setattr(experiment_module, "choose_precision", lambda device: FLOAT32)
    monkeypatch.setattr(experiment_module, "read_cifar", lambda path: easy)


def experiment(easy: Cifar, out: Path, max_epochs: int = 20) -> Experiment:
    return Experiment(easy, out, device=CPU, max_epochs=max_epochs, start="fan-in", say=silent)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_network_is_that_of_torch_modules(activation: str) -> None:
    """Activation after each convolution, before the pooling: the same for a monotone one."""
    state = initial_state(10, 3, STARTS["fan-in"])
    act = nn.ReLU() if activation == "relu" else nn.Tanh()
    convolutions = [nn.Conv2d(3, 32, 5, padding=2), nn.Conv2d(32, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)]
    linear = nn.Linear(64 * 4 * 4, 10)
    parts: list[nn.Module] = []
    for number, layer in enumerate(convolutions, 1):
        layer.load_state_dict({key: state.weights[f"conv{number}.{key}"] for key in ("weight", "bias")})
        parts += [layer, act, nn.MaxPool2d(3, 2, ceil_mode=True)]
    linear.load_state_dict({key: state.weights[f"fc.{key}"] for key in ("weight", "bias")})
    images = torch.randn(4, 3, 32, 32)
    expected = nn.Sequential(*parts, nn.Flatten(), linear)(images)
    torch.testing.assert_close(forward(state.weights, images, ACTIVATIONS[activation]), expected)


def test_a_step_is_that_of_torch_sgd(easy: Cifar) -> None:
    data = prepare(easy, CPU, STARTS["fan-in"])
    training = Training(data, "relu", 0.02, 1, FLOAT32, None)
    weights = {name: value.detach().clone().requires_grad_() for name, value in training.state.weights.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.02, momentum=0.9)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(10_007 + 1))
    for chosen in torch.split(order, 32):
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(weights, data.images[chosen], torch.relu), data.labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    training.one_epoch()
    for name, value in weights.items():
        torch.testing.assert_close(training.state.weights[name], value)


def test_the_initial_weights_have_the_stated_spread() -> None:
    fan_in, small = (initial_state(10, 0, STARTS[name]).weights for name in ("fan-in", "2012"))
    assert float(fan_in["conv2.weight"].std()) == pytest.approx(1 / math.sqrt(800), rel=0.03)
    assert float(small["conv1.weight"].std()) == pytest.approx(0.0001, rel=0.05)
    assert float(small["fc.weight"].std()) == pytest.approx(0.01, rel=0.05)


def test_epochs_to_the_goal_are_read_off_a_straight_line() -> None:
    assert epochs_to_goal([0.9, 0.5, 0.3, 0.2]) == pytest.approx(2.5)
    assert epochs_to_goal([0.9, 0.25]) == 1
    assert epochs_to_goal([0.9, 0.5, math.nan]) is None
    assert epochs_to_goal([0.9, 0.3]) is None


def test_a_stopped_experiment_continues_to_the_same_result(
    easy: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = relu_vs_tanh(tmp_path, whole, start="fan-in", num_seeds=2, max_epochs=20, device="cpu", say=silent)
    real, calls = Experiment.save, 0

    def save_and_stop(self: Experiment, trial: Trial, state: object) -> None:
        nonlocal calls
        real(self, trial, state)  # type: ignore[arg-type]
        calls += 1
        if calls % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "save", save_and_stop)
    for _ in range(100):
        try:
            found = relu_vs_tanh(tmp_path, parts, start="fan-in", num_seeds=2, max_epochs=20, device="cpu", say=silent)
            break
        except KeyboardInterrupt:
            continue
    assert calls > 3 and found == expected
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (whole, parts))
    assert first["trials"] == second["trials"] and first["search"] == second["search"]
    assert (whole / "relu-vs-tanh.png").stat().st_size > 5000 and not (whole / "current.pt").exists()


def test_a_second_command_is_kept_out_and_continues_after_the_first(
    easy: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes in one folder would each overwrite what the other has trained."""
    out, real = tmp_path / "x", Experiment.save
    trained: list[Trial] = []
    late = experiment(easy, out)

    def start() -> str:
        return relu_vs_tanh(tmp_path, out, start="fan-in", num_seeds=1, max_epochs=20, device="cpu", say=silent)

    def save(self: Experiment, trial: Trial, state: object) -> None:
        if not trained:
            with pytest.raises(InUseError, match=rf"{out} is in use by process \d+"):
                start()
        trained.append(trial)
        real(self, trial, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Experiment, "save", save)
    start()
    num_epochs = len(trained)
    with late.held():
        late.run(1)
    assert len(trained) == num_epochs > 0


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Files end at so many bytes, for torch's own writer too, as on a disk that fills."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_costs_one_epoch(easy: Cifar, tmp_path: Path) -> None:
    expected = experiment(easy, tmp_path / "whole").train("relu", 1e-5, 0, 2).errors
    assert len(expected) == 3 and expected[-1] > 0.25  # the goal is further
    made = experiment(easy, tmp_path / "x")
    made.train("relu", 1e-5, 0, 1).done = False
    with no_more_than(20_000), pytest.raises(UserError, match=r"cannot be written .* same command continues"):
        made.train("relu", 1e-5, 0, 2)
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["current.pt", "trials.json"]
    again = experiment(easy, tmp_path / "x")
    again.trials[0].done = False
    assert again.train("relu", 1e-5, 0, 2).errors == expected


def test_a_folder_that_cannot_be_written_is_found_before_the_first_epoch(easy: Cifar, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        experiment(easy, tmp_path / "file" / "x").run(1)


def test_the_search_takes_the_fastest_rate_and_tries_its_neighbors(easy: Cifar, tmp_path: Path) -> None:
    """Against a made-up course of trials, fastest at 0.04."""
    made = experiment(easy, tmp_path / "x", max_epochs=60)
    tried: list[tuple[float, float]] = []

    def train(activation: str, lr: float, seed: int, limit: float) -> Trial:
        epochs = 5 + abs(math.log2(lr / 0.04)) * 3
        tried.append((lr, limit))
        if epochs > limit:
            return Trial(activation, lr, seed, [0.9] * int(limit), True)
        count = math.ceil(epochs)
        return Trial(activation, lr, seed, [0.9] + [0.5] * (count - 1) + [0.2], True)

    made.train = train  # type: ignore[method-assign]
    assert made.search("relu") == pytest.approx(0.04)
    rates = [rate for rate, _ in tried]
    assert {0.01, 0.02, 0.04, 0.08} <= set(rates) and len(rates) == len(set(rates))
    assert all(limit < math.inf for _, limit in tried[1:])


def test_where_no_rate_reaches_the_goal_that_is_said(easy: Cifar, tmp_path: Path) -> None:
    made = experiment(easy, tmp_path / "x", max_epochs=3)
    made.train = lambda activation, lr, seed, limit: Trial(activation, lr, seed, [0.9, 0.9], True)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="no learning rate reaches 25% training error within 3 epochs"):
        made.search("tanh")


def test_a_goal_that_needs_no_training_is_refused(easy: Cifar, tmp_path: Path) -> None:
    """As of two classes of which one is rare; the ratio of the epochs would be 0 / 0."""
    untrained = initial_state(2, 0, STARTS["fan-in"]).weights
    guesses = forward(untrained, prepare(easy, CPU, STARTS["fan-in"]).images, torch.relu).argmax(1)
    with pytest.raises(UserError, match=r"the untrained network has a training error of 0\.00%, and the goal is 25%"):
        experiment(replace(easy, train_labels=guesses.numpy()), tmp_path / "x").search("relu")


def test_an_error_just_above_the_goal_is_not_shown_as_the_goal(
    easy: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,504 of 10,000 images."""
    said: list[str] = []
    made = Experiment(easy, tmp_path / "x", device=CPU, max_epochs=1, start="fan-in", say=said.append)
    monkeypatch.setattr(Training, "epochs", lambda self: iter([(0, 0.9), (1, 0.2504)]))
    assert made.train("relu", 0.01, 0, math.inf).epochs is None
    assert said[-1].endswith("epoch 1, training error 25.04%")


def test_the_table_has_spread_ratio_and_the_papers_numbers() -> None:
    relu = [Trial("relu", 0.01, seed, [0.9, 0.5, 0.2], True) for seed in (1, 2)]
    tanh = [Trial("tanh", 0.02, seed, [0.9, 0.6, 0.4, 0.3, 0.2], True) for seed in (1, 2)]
    text = table(Outcome({"relu": relu, "tanh": tanh}, {"relu": 0.01, "tanh": 0.02}, [], 50))
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["6", "36", "6"]
    assert "1.8 (1.8 to 1.8, 2 seeds)" in text and "ratio" in text
    slow = [Trial("tanh", 0.02, 1, [0.9, 0.6], True)]
    text = table(Outcome({"relu": relu[:1], "tanh": slow}, {"relu": 0.01, "tanh": 0.02}, [], 50))
    assert "not reached within 50" in text and "ratio" not in text


def test_another_folder_or_other_settings_are_refused(easy: Cifar, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for place in (tmp_path / "other", tmp_path / "other" / "file"):
        with pytest.raises(UsageError, match="something else than this experiment"):
            experiment(easy, place)
    first = experiment(easy, tmp_path / "x")
    first.train("relu", 0.01, 0, 1)
    with pytest.raises(UsageError, match="was begun with max_epochs 20, now it is 9"):
        experiment(easy, tmp_path / "x", max_epochs=9)
    with pytest.raises(UsageError, match="give 1 or more"):
        relu_vs_tanh(tmp_path, tmp_path / "y", num_seeds=0, say=silent)
