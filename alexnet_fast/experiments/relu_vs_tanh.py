"""Figure 1 of the paper: a four-layer network on CIFAR-10 reaches 25 % training error sooner with ReLU than with tanh.

Each nonlinearity has its own learning rate.  The search: seed 0, rates a factor of 2 apart, beginning at the rate of
the chosen start (`STARTS`); from the best rate so far its two neighbors are tried until neither is faster.  A trial of
the search ends as soon as it cannot be the fastest any more.  Then each nonlinearity trains at its best rate with seeds
1, 2, 3, …, which the search has not seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from alexnet_fast.config.precision import Precision, choose_precision
from alexnet_fast.distributed.devices import use_device
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.experiments.cifar import Cifar, read_cifar
from alexnet_fast.experiments.four_layers import (
    ACTIVATIONS,
    BATCH_SIZE,
    GOAL,
    MEASURED,
    MOMENTUM,
    STARTS,
    Prepared,
    Training,
    TrialState,
    epochs_to_goal,
    prepare,
)
from alexnet_fast.runs.checkpoint import save_tensors
from alexnet_fast.runs.figures import save_figure
from alexnet_fast.runs.folder import LOCK, to_json
from alexnet_fast.runs.lock import locked
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.tools.messages import counted

PAPER = {"relu": 6.0, "tanh": 36.0}
"""Epochs to 25 % training error that Figure 1 shows."""
STATE, CURRENT, RESULT, FIGURE = "trials.json", "current.pt", "result.json", "relu-vs-tanh.png"

Say = Callable[[str], None]


@dataclass
class Trial:
    """One training, whole or not yet."""

    activation: str
    lr: float
    seed: int
    errors: list[float] = field(default_factory=list)
    """Training error (0..1) after 0, 1, 2, … epochs."""
    done: bool = False
    """Whether it is at its end: the goal, divergence, the limit, or no chance left to be the fastest."""

    @property
    def epochs(self) -> float | None:
        """To the goal; None: it was not reached."""
        return epochs_to_goal(self.errors)


@dataclass
class Outcome:
    """What the experiment found."""

    trials: dict[str, list[Trial]]
    """Activation -> its trials at its best rate, one for each seed."""
    rates: dict[str, float]
    searched: list[Trial]
    max_epochs: int

    def epochs(self, activation: str) -> list[float] | None:
        """Of each seed; None where one did not reach the goal."""
        found = [trial.epochs for trial in self.trials[activation]]
        return None if None in found else [value for value in found if value is not None]

    @property
    def ratios(self) -> list[float] | None:
        """tanh's epochs over ReLU's, seed by seed."""
        relu, tanh = self.epochs("relu"), self.epochs("tanh")
        return None if relu is None or tanh is None else [b / a for a, b in zip(relu, tanh, strict=True)]


class Experiment:
    """All trials of one folder; every epoch is saved, so that the same command resumes after a stop."""

    def __init__(self, cifar: Cifar, out: Path, *, device: torch.device, max_epochs: int, start: str, say: Say) -> None:
        self.out, self.max_epochs, self.say = out, max_epochs, say
        self.precision: Precision = choose_precision(device)
        self.settings = {
            "data": cifar.fingerprint,
            "images": len(cifar.train_labels),
            "start": start,
            "batch_size": BATCH_SIZE,
            "momentum": MOMENTUM,
            "measured": min(MEASURED, len(cifar.train_labels)),
            "max_epochs": max_epochs,
            "precision": self.precision.name,
            "device": device.type,
        }
        self.trials: list[Trial] = self.read_state()
        self.data: Prepared = prepare(cifar, device, STARTS[start])

    def read_state(self) -> list[Trial]:
        """The trials so far.  UsageError where those in the folder are of other data or settings."""
        file = self.out / STATE
        if not file.exists():
            taken = self.out.is_dir() and any(path.name != LOCK for path in self.out.iterdir())
            if taken or self.out.is_file():
                raise UsageError(
                    f"{self.out}: holds, or is, something else than this experiment. Choose another --out."
                )
            return []
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            trials, settings = [Trial(**trial) for trial in content["trials"]], content["settings"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{file}: cannot be read ({error}). Remove {self.out} to begin anew.") from error
        for trial in trials:
            trial.errors = [math.nan if value is None else value for value in trial.errors]
        for key, value in self.settings.items():
            if settings.get(key) != value:
                raise UsageError(
                    f"{self.out}: was begun with {key} {settings.get(key)!r}, now it is {value!r}. "
                    "Choose another --out."
                )
        return trials

    def trial(self, activation: str, lr: float, seed: int) -> Trial:
        """The trial of this name, begun or not."""
        for trial in self.trials:
            if (trial.activation, trial.lr, trial.seed) == (activation, lr, seed):
                return trial
        self.trials.append(Trial(activation, lr, seed))
        return self.trials[-1]

    def train(self, activation: str, lr: float, seed: int, limit: float) -> Trial:
        """Train to the goal, or until `limit` epochs are over; from where it was stopped.

        Raises UserError where the untrained network is at the goal: no epochs could be compared.
        """
        trial = self.trial(activation, lr, seed)
        if trial.done:
            return trial
        training = Training(self.data, activation, lr, seed, self.precision, self.saved_state(trial))
        for epoch, error in training.epochs():
            if epoch == 0 and error <= GOAL:
                raise UserError(
                    f"{activation}, seed {seed}: the untrained network has a training error of {error:.2%}, and the "
                    f"goal is {GOAL:.0%}: there is nothing to compare. Give data with classes of similar sizes."
                )
            trial.errors.append(error)
            trial.done = not error > GOAL or epoch >= min(limit, self.max_epochs)  # NaN ends it too
            self.say(f"{activation}, learning rate {lr:g}, seed {seed}: epoch {epoch}, training error {error:.2%}")
            self.save(trial, training.state)
            if trial.done:
                break
        return trial

    def save(self, trial: Trial, state: TrialState) -> None:
        """The weights with their own errors first: a process killed before trials.json is written loses nothing.

        Raises UserError where the disk takes no more.
        """
        weights = {name: value.detach().cpu() for name, value in state.weights.items()}
        velocities = {name: value.cpu() for name, value in state.velocities.items()}
        content = {
            "trial": [trial.activation, trial.lr, trial.seed],
            "epoch": state.epoch,
            "errors": trial.errors,
            "weights": weights,
            "velocities": velocities,
        }
        with self.saying_what_cannot_be_written():
            save_tensors(self.out / CURRENT, content)
        self.save_trials()

    def save_trials(self) -> None:
        """Write trials.json.  Raises UserError where that cannot be."""
        trials = {"settings": self.settings, "trials": [asdict(trial) for trial in self.trials]}
        with self.saying_what_cannot_be_written():
            atomic.write_text(self.out / STATE, to_json(trials, indent=1) + "\n")

    @contextmanager
    def saying_what_cannot_be_written(self) -> Iterator[None]:
        """Make the folder if there is none; an error of the system in the block becomes a UserError."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise UserError(
                f"{self.out}: cannot be written ({error.strerror}). Make room, or give yourself the right to write; "
                "the same command continues after the last epoch that was saved."
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second process out of the folder.  Raises InUseError; UserError where the folder cannot be written."""
        with ExitStack() as stack:
            with self.saying_what_cannot_be_written():
                stack.enter_context(locked(self.out / LOCK))
            self.trials = self.read_state()  # another process may have gone on until a moment ago
            yield

    def saved_state(self, trial: Trial) -> TrialState | None:
        """Where the trial was stopped, with its errors until then; None where nothing of it was saved."""
        file = self.out / CURRENT
        none: dict[str, Any] = {"trial": None}
        content = torch.load(file, map_location="cpu", weights_only=True) if file.exists() else none
        if content["trial"] != [trial.activation, trial.lr, trial.seed] or not content["epoch"]:
            trial.errors = []
            return None
        trial.errors = content["errors"]
        return TrialState(content["epoch"], content["weights"], content["velocities"])

    def search(self, activation: str) -> float:
        """The fastest learning rate; UserError where none reaches the goal."""
        best: tuple[float, float] | None = None
        """(epochs, rate)"""
        tried: set[float] = set()
        waiting = [self.data.start.first_rate]
        while waiting:
            lr = waiting.pop(0)
            tried.add(lr)
            trial = self.train(activation, lr, 0, math.inf if best is None else math.ceil(best[0]))
            if trial.epochs is not None and (best is None or trial.epochs < best[0]):
                best = trial.epochs, lr
            center = self.data.start.first_rate if best is None else best[1]
            neighbors = [center * 2, center / 2]
            if best is None:  # nothing works yet: a diverged rate asks for less, a slow one for more
                diverged = math.isnan(trial.errors[-1])
                neighbors = [min(tried) / 2 if diverged else max(tried) * 2]
            waiting = [rate for rate in neighbors if rate not in tried and 1e-6 < rate < 10]
        if best is None:
            raise UserError(
                f"{activation}: no learning rate reaches {GOAL:.0%} training error within "
                f"{counted(self.max_epochs, 'epoch')}. Give --epochs more, and another --out."
            )
        return best[1]

    def run(self, num_seeds: int) -> Outcome:
        """Search, then train with every seed."""
        self.save_trials()  # a folder that cannot be written is found before the first epoch
        rates = {}
        for activation in ACTIVATIONS:
            rates[activation] = self.search(activation)
            self.say(f"{activation}: the best learning rate is {rates[activation]:g}")
        trials = {
            activation: [self.train(activation, rates[activation], seed, math.inf) for seed in range(1, num_seeds + 1)]
            for activation in ACTIVATIONS
        }
        return Outcome(trials, rates, [trial for trial in self.trials if trial.seed == 0], self.max_epochs)


def relu_vs_tanh(
    data: Path,
    out: Path,
    *,
    start: str = "2012",
    num_seeds: int = 3,
    max_epochs: int = 100,
    device: str | None = None,
    say: Say,
) -> str:
    """Run the experiment, or what is left of it; writes result.json and the figure below `out`; the table.

    start: a key of `STARTS`.  Raises UserError where no learning rate reaches the goal, InUseError where another
    process is at work in the folder.
    """
    if num_seeds < 1 or max_epochs < 1:
        raise UsageError(f"--seeds {num_seeds}, --epochs {max_epochs}: give 1 or more of each")
    place = use_device(device)
    cifar = read_cifar(data)
    say(f"{counted(len(cifar.train_labels), 'training image')} from {data} ({cifar.kind})")
    experiment = Experiment(cifar, out, device=place, max_epochs=max_epochs, start=start, say=say)
    with experiment.held():
        outcome = experiment.run(num_seeds)
        with experiment.saying_what_cannot_be_written():
            atomic.write_text(out / RESULT, to_json(result_of(outcome, experiment, cifar), indent=1) + "\n")
            draw(outcome, out / FIGURE)
        (out / CURRENT).unlink(missing_ok=True)
    return table(outcome)


def result_of(outcome: Outcome, experiment: Experiment, cifar: Cifar) -> dict[str, Any]:
    """Everything that says what was found, and on what."""
    return {
        "experiment": "relu-vs-tanh",
        "settings": {**experiment.settings, "kind": cifar.kind, "start_is": experiment.data.start.description},
        "goal": GOAL,
        "paper_epochs": PAPER,
        "learning_rates": outcome.rates,
        "epochs": {activation: outcome.epochs(activation) for activation in ACTIVATIONS},
        "ratios": outcome.ratios,
        "trials": [asdict(trial) for trials in outcome.trials.values() for trial in trials],
        "search": [asdict(trial) for trial in outcome.searched],
        "machine": describe_machine(),
    }


def table(outcome: Outcome) -> str:
    """Epochs of both, their ratio, and the paper's."""
    lines = [f"{'':6} {'learning rate':>13}  {'epochs to 25 % training error':32} {'paper':>6}"]
    for activation in ACTIVATIONS:
        epochs = outcome.epochs(activation)
        text = f"not reached within {outcome.max_epochs}" if epochs is None else spread(epochs)
        lines.append(f"{activation:6} {outcome.rates[activation]:13g}  {text:32} {PAPER[activation]:6g}")
    if outcome.ratios is not None:
        lines.append(f"{'ratio':6} {'':13}  {spread(outcome.ratios):32} {PAPER['tanh'] / PAPER['relu']:6g}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """5.1 (4.9 to 5.3, 3 seeds)"""
    if len(values) == 1:
        return f"{values[0]:.1f} (1 seed)"
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f}, {len(values)} seeds)"


def draw(outcome: Outcome, file: Path) -> None:
    """The paper's Figure 1 with our curves: ReLU solid, tanh dashed, one line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    for activation, style, color in (("relu", "-", "#333333"), ("tanh", "--", "#c0504d")):
        for number, trial in enumerate(outcome.trials[activation]):
            label = f"{'ReLU' if activation == 'relu' else 'tanh'}, learning rate {trial.lr:g}" if not number else None
            axes.plot(range(len(trial.errors)), trial.errors, style, color=color, linewidth=1.3, label=label)
    axes.axhline(GOAL, color="#333333", linewidth=0.7, linestyle=":")
    axes.set(xlabel="epoch", ylabel="training error", ylim=(0, 1), xlim=(0, None))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save_figure(figure, file)
