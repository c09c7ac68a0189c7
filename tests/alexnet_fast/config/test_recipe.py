"""Recipes: complete, checked, and the schedules of the authors' notebook."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from alexnet_fast.config.recipe import (
    FOLDER,
    Recipe,
    counted_epochs,
    key_docs,
    key_sources,
    load_recipe,
    recipe_from,
    recipe_names,
)
from alexnet_fast.config.schedule import Rates, Schedule
from alexnet_fast.network.model import NETS, Architecture
from alexnet_fast.tools.errors import UsageError


def test_every_net_has_a_recipe() -> None:
    assert {load_recipe(name).network for name in recipe_names()} == set(NETS)


ABOUT = ("name", "description", "source", "expected")
"""Keys that describe a recipe; they are no choice of the run's."""
SOURCE = re.compile(
    r"(layers/(layers|layer-params)-[\w-]+\.cfg|src/\w+\.cu|\w+\.(py|sh)):\d+"
    r"|paper, (sections?|figure) \d|ours|inferred: \w"
)
"""A file of the authors' release with its line, the paper's section, "ours", or an inference that is stated."""


def test_every_key_is_explained() -> None:
    assert list(key_docs()) == [field.name for field in fields(Recipe)]
    assert all(doc.explanation for doc in key_docs().values())


def test_every_default_has_its_source() -> None:
    unsourced = [key for key, doc in key_docs().items() if key not in ABOUT and not SOURCE.match(doc.source)]
    assert not unsourced


@pytest.mark.parametrize("name", recipe_names())
def test_every_value_of_a_recipe_has_its_source(name: str) -> None:
    file = FOLDER / f"{name}.toml"
    sources = key_sources(file)
    assert [key for key in key_docs() if key not in ABOUT and not SOURCE.match(sources.get(key, ""))] == []
    stated = [line for line in file.read_text().splitlines() if re.match(r"\w+ *=", line)]
    assert len(stated) == len({line.split()[0] for line in stated})


def test_a_key_without_a_source_is_found(tmp_path: Path) -> None:
    """As whoever adds a key to a recipe without a comment would see in the test above."""
    file = tmp_path / "mine.toml"
    file.write_text(
        "# ours: above\nepochs = 3.0\nseed = 7\nmomentum = 0.8  # paper, section 5\n# nowhere\n\nbatch_size = 64"
    )
    sources = key_sources(file)
    assert {key: sources.get(key) for key in ("epochs", "seed", "momentum", "batch_size")} == {
        "epochs": "ours: above", "seed": None, "momentum": "paper, section 5", "batch_size": None
    }  # fmt: skip
    assert sources["warmup_epochs"].startswith("ours, after Goyal")


def test_shown_recipes_carry_their_sources(tmp_path: Path) -> None:
    recipe = load_recipe("2012")
    shown = recipe.to_toml(sources=key_sources(FOLDER / "2012.toml"))
    assert "# Source: layers/layer-params-145.cfg:181\nepochs = 91.0" in shown
    (tmp_path / "2012.toml").write_text(shown)
    assert load_recipe(str(tmp_path / "2012.toml")) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_written_recipes_read_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["seed=7", "lr_conv1_from_epoch=none"])
    file = tmp_path / f"{name}.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(file)) == recipe
    assert recipe.description and recipe.source and recipe.expected


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batchsize=64", "did you mean 'batch_size'"),
        ("EPOCHS=3", "there is no key 'EPOCHS'; did you mean 'epochs'?"),
        ("epoch=3", "there is no key 'epoch'; did you mean 'epochs'?"),
        ("Batch-Size=3", "did you mean 'batch_size'?"),
        ("nonsense_key=1", "choose from name"),
        ("batch_size=64.5", "a whole number"),
        ("batch_size=true", "a whole number"),
        ("batch_size=0", "1 or more"),
        ("epochs=soon", "a number"),
        ("epochs=0", "more than 0"),
        ("epochs=nan", "finite"),
        ("epochs=inf", "finite"),
        (f"epochs=1{'0' * 400}", "finite"),
        (f"lr_weights=[-1{'0' * 400}, 0, 0, 0]", "a list of finite numbers"),
        ("seed=-1", "0 or more"),
        ("pca_jitter_divisor=1", "true or false"),
        ("network=alex", "network is 'alex'"),
        ("network=15", "did you mean '145' or '150'?"),
        ("network=146", "did you mean '145', '167', '147' or '148'?"),
        ("network=14", "did you mean '145', '147' or '148'?"),
        ("mean=median", "image or rgb"),
        ("final_views=5", "1 or 10"),
        ("momentum=1", "below 1"),
        ("dropout=1", "below 1"),
        ("dropout=0.5x", "a number"),
        ("norms=conv3", 'norms has \'conv3\': give "net", "none", or some of conv1, conv2, conv2-spatial'),
        ("pooling=3", "net, 3/2 or 2/2"),
        ("activation=gelu", "net, relu or tanh"),
        ("lr_conv1_biases=-1", "0 or more"),
        ("pca_jitter_scale=variance", "sqrt_eigenvalue or eigenvalue"),
        ("precision=fp8", "choose auto"),
        ("lr_weights=[0.1]", "lr_weights has 1 rate and lr_weights_milestones 4 epochs"),
        ("lr_weights=[0.1, -1, 0, 0]", "rates of 0 to 1,000,000"),
        ("lr_biases=[1e300, 0]", "rates of 0 to 1,000,000"),
        ("weight_decay=1e308", "at most 1,000,000"),
        ("lr_weights=0.1", "a list of numbers"),
        ("lr_weights_milestones=[1, 2, 3, 4]", "begin with 0"),
        ("lr_biases_milestones=[0, 0]", "let them rise"),
        ("width_divisor=5", "1, 2, 4, 8 or 16"),
        ("lr_weights=[0.1, inf, 0, 0]", "a list of finite numbers"),
        ("lr_biases=[nan, 0.1]", "a list of finite numbers"),
        ("lr_weights_milestones=[0, 10, 20, inf]", "a list of finite numbers"),
        ("lr_weights_milestones=[0, 22.5, 45, 95]", "not reached in 95 epochs"),
        ("schedule_epochs=60", "not reached in 60 epochs"),
        ("freeze_conv1_epoch=-1", '0 or more, or "none"'),
        ("lr_conv1_from_epoch=-0.5", "0 or more"),
        ("pca_jitter_off_epoch=-3", "0 or more"),
        ("pca_jitter_off_epoch=nan", "finite"),
        ("pca_jitter=1e300", "at most 10"),
        ("epochs=1e308", "from 0.000001 to 1,000,000"),
        ("epochs=1e-300", "from 0.000001"),
        ("schedule_epochs=1e-300", "from 0.000001"),
        ("description=true", "description is True; it must be a string"),
        ("source=[1, 2]", "it must be a string"),
        ("name=mine", "name is that of its file"),
        ("batch_size", "key=value"),
    ],
)
def test_what_cannot_be_is_refused(setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        load_recipe("2013", [setting])
    assert str(refused.value).startswith(f"--set {setting}: ")


def test_settings_that_do_not_go_together_are_all_named() -> None:
    with pytest.raises(UsageError, match=re.escape("--set lr_weights=[1, 2] --set seed=1: lr_weights has 2 rates")):
        load_recipe("2013", ["lr_weights=[1, 2]", "seed=1"])


def test_words_need_no_quotes() -> None:
    recipe = load_recipe(
        "2013", ["network=145", "mean=rgb", "precision='fp32'", "epochs=3", "pca_jitter_off_epoch=none"]
    )
    assert recipe == replace(
        load_recipe("2013"), network="145", mean="rgb", precision="fp32", epochs=3.0, pca_jitter_off_epoch=None
    )


def test_unknown_recipes_and_files() -> None:
    with pytest.raises(UsageError, match=r"neither one .* nor a \.toml file: did you mean '2010', '2012' or '2013'\?$"):
        load_recipe("2031")
    with pytest.raises(UsageError, match=r"did you mean '145-half'\?$"):
        load_recipe("145_Half")
    with pytest.raises(UsageError, match=r"choose from .*2012, 2013"):
        load_recipe("zzz")
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe("nowhere/mine.toml")
    with pytest.raises(UsageError, match=r"^recipe mine\.toml: there is no key 'Epochs'; did you mean 'epochs'\?$"):
        recipe_from({"Epochs": 1}, "recipe mine.toml")


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("epochs: 3")
    with pytest.raises(UsageError, match="is no TOML"):
        load_recipe(str(file))


def test_an_ablation_is_one_setting() -> None:
    def with_setting(*settings: str) -> Architecture:
        return load_recipe("2012", settings).architecture(1000)

    net = NETS["145"]
    assert with_setting() == net
    assert with_setting("norms=none") == NETS["148"]
    assert with_setting("norms=conv1") == NETS["167"]
    assert with_setting("norms=conv2,conv1") == replace(net, norms=("conv1", "conv2"))
    assert with_setting("pooling=2/2") == NETS["147"]
    assert load_recipe("147", ["pooling=3/2"]).architecture(1000) == net
    assert with_setting("activation=tanh") == replace(net, activation="tanh")
    assert with_setting("dropout=0") == replace(net, dropout=0.0)
    assert with_setting("dropout_inverted=true") == replace(net, dropout_inverted=True)
    assert with_setting("exact_2012=true") == replace(net, all_ties=True)


def test_exact_2012_computes_in_float32() -> None:
    with pytest.raises(UsageError, match="precision is 'bf16': it must be fp32 or auto with exact_2012"):
        load_recipe("2012", ["exact_2012=true", "precision=bf16"])


def rates_at(recipe: Recipe, epoch: float) -> Rates:
    return Schedule(recipe, 1000).rates(round(epoch * 1000))


def test_jitter_and_length_are_the_notebooks() -> None:
    """Learning rates are in `test_layer_tables`."""
    found = {
        name: (recipe.epochs, recipe.pca_jitter_off_epoch, recipe.final_split)
        for name in recipe_names()
        for recipe in [load_recipe(name)]
    }
    assert found == {
        "2010": (93, 68, "test"), "2012": (91, 67, "val"), "2013": (95, 63, "val"), "170": (95, 68, "val"),
        "145-half": (96, 66, "test"), "147": (90, None, "val"), "148": (97, 69, "val"), "150": (92, 66, "val"),
        "paper": (90, None, "val"), "tanh": (95, 63, "val"), "demo": (4, None, "val"),
            "caffe": (30, None, "val"),
    }  # fmt: skip
    schedule = Schedule(load_recipe("2012"), 1000)
    assert [schedule.pca_jitter(epoch) for epoch in (0, 66, 67, 90)] == [True, True, False, False]
    assert (schedule.num_epochs, schedule.num_steps) == (91, 91_000)


def test_shorter_runs_have_everything_in_proportion() -> None:
    short = load_recipe("2013", ["epochs=9.5"])
    long = load_recipe("2013")
    for epoch in (0.0, 2.2, 2.4, 4.4, 4.8, 7.2, 7.4, 9.4):
        assert rates_at(short, epoch) == rates_at(long, 10 * epoch)


def test_rates_scale_with_the_batch_after_a_warm_up() -> None:
    recipe = load_recipe("2013", ["batch_size=512"])
    assert rates_at(recipe, 0).weights == pytest.approx(0.01)
    assert rates_at(recipe, 2.5).weights == pytest.approx(0.025)
    assert rates_at(recipe, 5).weights == pytest.approx(0.04)
    assert rates_at(recipe, 5).biases == pytest.approx(0.08)
    assert rates_at(load_recipe("2013", ["batch_size=64"]), 0).weights == pytest.approx(0.005)


def test_a_part_of_an_epoch_is_a_run() -> None:
    schedule = Schedule(load_recipe("2013", ["epochs=1.5"]), 10)
    assert (schedule.num_steps, schedule.num_epochs) == (15, 2)


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [(1.0, "1 epoch"), (1.5, "1.5 epochs"), (0.0198464, "0.02 epochs"), (3.0001, "3 epochs"),
     (0.0004, "0.0004 epochs")],
)  # fmt: skip
def test_epochs_are_shown_to_two_digits(epochs: float, shown: str) -> None:
    assert counted_epochs(epochs) == shown
