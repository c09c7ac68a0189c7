"""The ablations: statistics by hand and by scipy, and the whole experiment resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.experiments import ablations as ablations_module
from alexnet_fast.experiments.ablations import (
    BASE,
    T_975,
    VARIANTS,
    Outcome,
    ablations,
    check_runs,
    chosen_variants,
    difference,
    draw,
    folder_of,
    table,
)
from alexnet_fast.runs.checkpoint import checkpoint_path, newest_checkpoint, save_checkpoint
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.resume import recipe_of_run
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError
from alexnet_fast.training import run
from alexnet_fast.training.divergence import DivergedError

SMALL = ("width_divisor=16", "batch_size=16", "lr_base_batch_size=16", "epochs=1", "precision=fp32", "final_views=1")


def silent(text: str) -> None: ...


def outcome(name: str, *errors: float | None) -> Outcome:
    return Outcome(VARIANTS[name], errors)


def test_every_variant_is_a_recipe_and_differs_from_the_base() -> None:
    networks = {name: load_recipe("2013", variant.settings).architecture(10) for name, variant in VARIANTS.items()}
    recipes = {name: load_recipe("2013", variant.settings) for name, variant in VARIANTS.items()}
    assert len({repr(recipe) for recipe in recipes.values()}) == len(VARIANTS)
    assert networks["one-tower"].num_towers == 1 and networks["one-tower"].norms == ("conv1",)
    assert not networks["no-exchange"].exchanged and networks["no-norms"].norms == ()
    assert networks["pooling-2-2"].pool_size == 2 and networks["tanh"].activation == "tanh"
    assert recipes["no-color-jitter"].pca_jitter == 0 and not recipes["no-mirror-and-crop"].crop_and_mirror


def test_the_interval_is_students_of_paired_differences() -> None:
    stats = pytest.importorskip("scipy.stats")
    base, changed = outcome(BASE, 0.40, 0.42, 0.41, 0.44), outcome("tanh", 0.45, 0.46, 0.44, 0.50)
    points = 100 * (np.array(changed.errors) - np.array(base.errors))
    low, high = stats.t.interval(0.95, 3, loc=points.mean(), scale=stats.sem(points))
    found = difference(changed, base)
    assert found is not None and found.half_width is not None
    assert found.mean == pytest.approx(points.mean())
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), abs=1e-3)
    assert found.is_clear
    np.testing.assert_allclose(T_975, stats.t.ppf(0.975, np.arange(1, len(T_975) + 1)), atol=6e-4)


def test_one_seed_has_no_interval_and_a_diverged_one_no_difference() -> None:
    single = difference(outcome("tanh", 0.5), outcome(BASE, 0.4))
    assert single is not None and single.mean == pytest.approx(10) and single.half_width is None
    assert difference(outcome("tanh", 0.5, None), outcome(BASE, 0.4, 0.4)) is None
    assert outcome("tanh", 0.5, None).error is None


def test_the_table_says_what_small_data_can_show(tiny_dataset: Dataset) -> None:
    rows = [outcome(BASE, 0.40, 0.42), outcome("tanh", 0.60, 0.44), outcome("inverted-dropout", None, 0.4)]
    text = table(rows, tiny_dataset)
    assert "±" in text and "?" in text and "diverged" in text
    assert "cannot confirm or refute" in text and "30 images" in text


def test_equal_differences_of_all_seeds_are_no_interval_of_width_zero(tiny_dataset: Dataset) -> None:
    found = difference(outcome("tanh", 0.3, 0.4, 0.5), outcome(BASE, 0.2, 0.3, 0.4))  # equal but for rounding
    assert found is not None and found.mean == pytest.approx(10) and found.half_width is None and not found.is_clear
    assert "+10.00 no spread" in table([outcome(BASE, 0.2, 0.3), outcome("tanh", 0.3, 0.4)], tiny_dataset)
    assert "no spread" not in table([outcome(BASE, 0.2), outcome("tanh", 0.3)], tiny_dataset)


@pytest.mark.parametrize(("error", "noise"), [(0.0, 4.5), (1.0, 4.5), (0.4, 12.7)])
def test_nets_without_an_error_differ_by_chance_too(error: float, noise: float, tiny_dataset: Dataset) -> None:
    """30 images: by the rule of succession an error of 1/32 for 0 %, of 13/32 for 40 %."""
    assert f"differ by {noise:.1f} points as a rule" in table([outcome(BASE, error)], tiny_dataset)


def test_the_figure_says_which_training_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(ablations_module, "save_figure", lambda figure, file: drawn.append(figure))
    for base, texts in ((0.4, ["  diverged"]), (None, ["  the base diverged", "  diverged"])):
        rows = [outcome(BASE, base, 0.4), outcome("tanh", 0.5, 0.6), outcome("no-mirror-and-crop", None, 0.4)]
        draw(rows, tmp_path / "ablations.png")
        assert [text.get_text() for text in drawn[-1].axes[0].texts] == texts
        plt.close(drawn[-1])


def test_an_unknown_variant_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'no-dropout'"):
        chosen_variants(["no-dropot"])
    assert [variant.name for variant in chosen_variants(["tanh"])] == [BASE, "tanh"]


def test_a_stopped_experiment_trains_only_what_is_left(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.train
    trained: list[str] = []

    def train(*arguments: object, **options: object) -> object:
        folder = str(arguments[2])
        if "tanh" in folder and trained[-1:] != [folder]:
            trained.append(folder)
            raise KeyboardInterrupt
        trained.append(folder)
        if "inverted" in folder:
            raise DivergedError("the loss is NaN")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("alexnet_fast.experiments.ablations.train", train)

    def start() -> list[Outcome]:
        return ablations(
            tiny_dataset, tmp_path / "out", settings=SMALL, num_seeds=1, only=["tanh", "inverted-dropout"],
            device="cpu", say=silent,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        start()
    first = len(trained)
    outcomes = start()
    assert sum(BASE in name for name in trained) == 1 and len(trained) > first
    assert [item.variant.name for item in outcomes] == [BASE, "tanh", "inverted-dropout"]
    assert outcomes[2].errors == (None,) and outcomes[0].error is not None
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert content["variants"][1]["top1_errors"] == list(outcomes[1].errors)
    assert (tmp_path / "out" / "ablations.png").stat().st_size > 3000
    with pytest.raises(UsageError, match=r"was begun with epochs 1\.0, now 2\.0"):
        ablations(
            tiny_dataset, tmp_path / "out", settings=(*SMALL, "epochs=2"), num_seeds=1, only=["tanh"],
            device="cpu", say=silent,
        )  # fmt: skip


def test_an_unfinished_run_on_other_data_is_refused(small_run: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    """Otherwise it would end as a mixture: `train --resume` allows other images of the same classes."""
    folder = folder_of(tmp_path, BASE, 0)
    shutil.copytree(small_run, folder)
    (folder / "result.json").unlink()
    planned = {(BASE, 0): recipe_of_run(RunFolder(folder))}
    check_runs(tmp_path, planned, tiny_dataset)
    saved = newest_checkpoint(folder / "checkpoints")
    assert saved is not None
    save_checkpoint(checkpoint_path(folder / "checkpoints", 10**6), replace(saved[1], dataset_fingerprint="another"))
    with pytest.raises(UsageError, match="was trained on another data set"):
        check_runs(tmp_path, planned, tiny_dataset)
