"""What each of AlexNet's ingredients is worth: variants of net 167, trained under one budget with the same seeds.

Every variant changes one thing of the base; seed by seed it sees the same images in the same order.  Its difference
from the base is the mean over the seeds of the paired differences, with Student's 95 % confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from alexnet_fast.config.recipe import Recipe, load_recipe
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.runs.describe import trained_on
from alexnet_fast.runs.figures import save_figure
from alexnet_fast.runs.folder import RunFolder, to_json
from alexnet_fast.runs.resume import ONLY_WORDS, recipe_of_run
from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import EXIT_BY_SIGNAL, StoppedError, UsageError, UserError
from alexnet_fast.tools.messages import counted, did_you_mean
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.run import train

BASE = "net-167"
RESULT, FIGURE = "result.json", "ablations.png"
MOST_SEEDS = 31
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t for a 95 % interval, by degrees of freedom from 1."""

ROUNDING = 1e-9
"""Points; far less than one image of any validation split."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """One change."""

    name: str
    what: str
    settings: tuple[str, ...]
    """As `train --set` takes them."""
    paper: str = "–"
    """What the paper says that it costs, in points of top-1 error."""
    notebook: str = "–"
    """The same from the authors' notebook: against net 145, on ILSVRC-2012's validation images, ten views."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(BASE, "the base: one norm, overlapping pooling, two towers", ()),
        Variant("net-145", "all three norms, the paper's net as it ran", ("network=145",), "–", "+0.17 (against 167)"),
        Variant("no-norms", "no norm at all", ("norms=none",), "+1.4", "+1.37"),
        Variant("pooling-2-2", "pooling windows that do not overlap", ("pooling=2/2",), "+0.4", "+0.40"),
        Variant("one-tower", "one tower of half the maps", ("network=145-half", "norms=conv1"), "+1.7", "+1.70 (2010)"),
        Variant("no-exchange", "towers that never exchange maps", ("network=150", "norms=conv1"), "–", "+1.17"),
        Variant("no-color-jitter", "no PCA color jitter", ("pca_jitter=0",), "> +1"),
        Variant("no-dropout", "no dropout", ("dropout=0",), "overfits"),
        Variant("no-mirror-and-crop", "the center crop, never mirrored", ("crop_and_mirror=false",), "overfits"),
        Variant("tanh", "tanh for ReLU", ("activation=tanh",)),
        Variant("inverted-dropout", "nn.Dropout's scaling", ("dropout_inverted=true",)),
        Variant("lambda", "jitter by λ, as the paper's text", ("pca_jitter_scale=eigenvalue",)),
    )
}


@dataclass(frozen=True)
class Outcome:
    """One variant's errors."""

    variant: Variant
    errors: tuple[float | None, ...]
    """Top-1 error (0..1) seed by seed; None: that training diverged."""

    @property
    def error(self) -> float | None:
        """Mean over the seeds; None where one diverged."""
        known = [error for error in self.errors if error is not None]
        return mean(known) if len(known) == len(self.errors) else None


@dataclass(frozen=True)
class Difference:
    """From the base, in points (0..100) of top-1 error."""

    mean: float
    half_width: float | None
    """Of the 95 % confidence interval; None with one seed, and where all seeds have the same difference: of so few
    images that happens by chance, and an interval of no width would say that other seeds never differ."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def difference(outcome: Outcome, base: Outcome) -> Difference | None:
    """None where a training of either diverged."""
    pairs = zip(outcome.errors, base.errors, strict=True)
    points = [100 * (ours - theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    if len(points) < len(outcome.errors):
        return None
    if max(points) - min(points) < ROUNDING:
        return Difference(mean(points), None)
    return Difference(mean(points), T_975[len(points) - 2] * stdev(points) / math.sqrt(len(points)))


def chosen_variants(only: Sequence[str]) -> list[Variant]:
    """The base and those of these names; all where none is named.  UsageError for an unknown name."""
    for name in only:
        if name not in VARIANTS:
            raise UsageError(f"--only {name}: there is no such variant; {did_you_mean(name, VARIANTS)}")
    return [variant for name, variant in VARIANTS.items() if not only or name in only or name == BASE]


def ablations(
    dataset: Dataset,
    out: Path,
    *,
    recipe: str = "2013",
    settings: Sequence[str] = (),
    num_seeds: int = 3,
    only: Sequence[str] = (),
    device: str | None = None,
    say: Say,
) -> list[Outcome]:
    """Train what is left of the variants; writes result.json and the figure below `out`.

    recipe, settings: of the base, as `train` takes them; `epochs` is the budget.  Raises UsageError where the data set
    has no validation split, or where `out` holds runs of another budget; StoppedError after a signal: then the same
    call continues.
    """
    variants = chosen_variants(only)
    if "val" not in dataset.splits:
        raise UsageError(f"{dataset.folder}: has no validation split to measure errors on. Shard with --val-fraction.")
    if not 1 <= num_seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds {num_seeds}: give 1 to {MOST_SEEDS}")
    planned = {
        (variant.name, seed): load_recipe(recipe, [*settings, *variant.settings, f"seed={seed}"])
        for variant in variants
        for seed in range(num_seeds)
    }  # a wrong setting is found before hours of training
    check_runs(out, planned, dataset)
    errors: dict[tuple[str, int], float | None] = {}
    for number, seed, variant in in_order(variants, num_seeds):
        run = folder_of(out, variant.name, seed)
        say(f"{number} of {len(planned)}: {variant.name}, seed {seed}")
        error = errors[variant.name, seed] = trained_error(dataset, planned[variant.name, seed], run, device)
        say(f"  {'diverged' if error is None else f'{error:.2%} top-1 error'}")
    outcomes = [
        Outcome(variant, tuple(errors[variant.name, seed] for seed in range(num_seeds))) for variant in variants
    ]
    atomic.write_text(out / RESULT, to_json(as_json(outcomes, dataset, planned[BASE, 0]), indent=1) + "\n")
    draw(outcomes, out / FIGURE)
    return outcomes


def in_order(variants: Sequence[Variant], num_seeds: int) -> Iterator[tuple[int, int, Variant]]:
    """(number from 1, seed, variant): all variants of a seed before the next seed, so that a part is of use."""
    number = 0
    for seed in range(num_seeds):
        for variant in variants:
            number += 1
            yield number, seed, variant


def folder_of(out: Path, name: str, seed: int) -> Path:
    return out / name / f"seed-{seed}"


def check_runs(out: Path, planned: dict[tuple[str, int], Recipe], dataset: Dataset) -> None:
    """UsageError where a run of the folder was begun with another recipe or on other data, as far as it has saved."""
    for (name, seed), recipe in planned.items():
        folder = RunFolder(folder_of(out, name, seed))
        if not folder.path.is_dir() or not folder.holds_a_run():
            continue
        before, now = asdict(recipe_of_run(folder)), asdict(recipe)
        changed = [key for key in now if before[key] != now[key] and key not in ONLY_WORDS]
        if changed:
            said = ", ".join(f"{key} {before[key]!r}, now {now[key]!r}" for key in changed)
            raise UsageError(f"{folder.path} was begun with {said}. Choose another --out.")
        if trained_on(folder) not in ("", dataset.fingerprint):
            raise UsageError(f"{folder.path} was trained on another data set. Choose another --out.")


def trained_error(dataset: Dataset, recipe: Recipe, run: Path, device: str | None) -> float | None:
    """Top-1 error (0..1) of the run, trained to its end if it is not there yet; None: it diverged."""
    folder = RunFolder(run)
    begun = run.is_dir() and folder.holds_a_run()
    result = folder.read_result() if begun else None
    if result is None:
        metrics = folder.read_metrics() if begun else []
        if metrics and metrics[-1]["kind"] == "diverged":
            return None
        try:
            result = train(dataset, recipe, run, resume=begun, device=device, quiet=True)
        except DivergedError:
            return None
        except StoppedError as error:
            text = f"stopped during {run}; everything is saved, the same command resumes."
            raise StoppedError(text, error.exit_code - EXIT_BY_SIGNAL) from error
    found = result["10_views"] if recipe.final_views == 10 else result["center_view"]
    if found is None:
        raise UserError(f"{folder.result}: says no error of the validation split. Remove {run} and begin again.")
    return float(found["top1_error"])


def as_json(outcomes: Sequence[Outcome], dataset: Dataset, base: Recipe) -> dict[str, Any]:
    """Everything that says what was found, and on what."""
    rows = []
    for outcome in outcomes:
        found = difference(outcome, outcomes[0])
        rows.append(
            {
                "variant": outcome.variant.name,
                "what": outcome.variant.what,
                "settings": outcome.variant.settings,
                "top1_errors": outcome.errors,
                "difference": None if found is None else found.mean,
                "half_width": None if found is None else found.half_width,
                "paper": outcome.variant.paper,
                "notebook": outcome.variant.notebook,
            }
        )
    return {
        "experiment": "ablations",
        "base_recipe": asdict(base),
        "dataset": {
            "fingerprint": dataset.fingerprint,
            "classes": len(dataset.classes),
            "samples": {name: split.samples for name, split in dataset.splits.items()},
        },
        "variants": rows,
        "machine": describe_machine(),
    }


def table(outcomes: Sequence[Outcome], dataset: Dataset) -> str:
    """Ours beside the paper's and the notebook's, and what so many images can show."""
    base = outcomes[0]
    lines = [f"{'variant':19} {'error':>8} {'difference (95 %)':>18}  {'paper':>8}  notebook"]
    for outcome in outcomes:
        error = "diverged" if outcome.error is None else f"{outcome.error:.2%}"
        found = difference(outcome, base)
        if outcome is base or found is None:
            text = ""
        elif found.half_width is None:
            text = f"{found.mean:+.2f}{' no spread' * (len(outcome.errors) > 1)}"
        else:
            text = f"{found.mean:+.2f} ± {found.half_width:.2f}{'' if found.is_clear else ' ?'}"
        variant = outcome.variant
        lines.append(f"{variant.name:19} {error:>8} {text:>18}  {variant.paper:>8}  {variant.notebook}")
    return "\n".join([*lines, "", *caveats(outcomes, dataset)])


def caveats(outcomes: Sequence[Outcome], dataset: Dataset) -> list[str]:
    """What the numbers can and cannot show."""
    images, trained = dataset.split("val").samples, dataset.split("train").samples
    # As if one image more were right and one more wrong: an error of 0 would promise that no two nets ever differ.
    typical = 0.5 if outcomes[0].error is None else (outcomes[0].error * images + 1) / (images + 2)
    noise = 100 * math.sqrt(2 * typical * (1 - typical) / images)
    seeds = len(outcomes[0].errors)
    lines = [
        f"Differences are points of top-1 error on {counted(images, 'image')}, after training on {trained:,}; "
        f"{counted(seeds, 'seed')}.",
        f"Two nets that are equally good differ by {noise:.1f} points as a rule on so few images: smaller differences "
        "show nothing.",
        "The paper's and the notebook's are of 1.2 million images and 90 epochs. A small data set rewards what",
        "regularizes more, and what speeds training up; it cannot confirm or refute differences of one point there.",
    ]
    if seeds > 1:
        lines.append("? : the interval over the seeds holds zero; no spread: all seeds have the same difference.")
    else:
        lines.append("One seed gives no interval: repeat with --seeds 3.")
    return lines


def draw(outcomes: Sequence[Outcome], file: Path) -> None:
    """Each variant's difference with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [(outcome, difference(outcome, outcomes[0])) for outcome in outcomes[1:]]
    figure, axes = plt.subplots(figsize=(7.5, 0.42 * len(shown) + 1.2), dpi=110, layout="constrained")
    for place, (outcome, found) in enumerate(shown):
        if found is None:
            which = "diverged" if outcome.error is None else "the base diverged"
            axes.text(0, place, f"  {which}", va="center", color="#c0504d")
        else:
            axes.errorbar(found.mean, place, xerr=found.half_width, fmt="o", color="#c0504d", capsize=3)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [outcome.variant.name for outcome, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("points of top-1 error more than net 167, with the 95 % interval over seeds")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    save_figure(figure, file)
