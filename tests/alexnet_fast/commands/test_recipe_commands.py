"""`info --recipe` and `recipes`: what they print and draw, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.config.recipe import load_recipe, recipe_names


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    from alexnet_fast.commands.main import main

    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", recipe_names())
def test_info_prints_every_recipes_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "info", "--recipe", name)
    assert code == 0
    assert out.startswith(f"Recipe {name}: {load_recipe(name).description}\n")
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("conv", "fc", "total"))] == [
        "conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8", "total"
    ]  # fmt: skip
    assert ("in a training step at batch" in out) == (name != "145-half")


def test_info_follows_settings(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "info", "--recipe", "2012", "--set", "norms=none", "--set", "precision=fp32")
    assert code == 0 and "norm" not in out and "at batch 128, in 32 bits" in out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_info_draws_the_diagram(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"net.{suffix}"
    code, out, _ = call(capsys, "info", "--recipe", "150", "--diagram", file)
    assert code == 0 and out.rstrip().endswith(f"The diagram is in {file}.")
    assert file.stat().st_size > 10_000
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "2031"], 2, "did you mean"),
        (["--recipe", "2012", "--set", "norms=conv4"], 2, "conv1, conv2, conv2-spatial"),
        (["--recipe", "2012", "{tmp}"], 2, "are two things: give one of them"),
        (["--diagram", "{tmp}/net.png"], 2, "--diagram needs a network: add --recipe 2012"),
        (["--set", "norms=none"], 2, "--set needs a network"),
        (["--recipe", "2012", "--diagram", "{tmp}/net.jpg"], 2, "must end in .png, .svg, .pdf"),
        (["--recipe", "2012", "--diagram", "{tmp}/no/net.png"], 1, "cannot be written (No such file or directory)"),
    ],
)
def test_mistakes_get_a_clear_message(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = call(capsys, "info", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert (found, message in err, out) == (code, True, "")
    assert "Traceback" not in err and not list(tmp_path.iterdir())


def test_recipes_print_sources_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "recipes", "170")
    assert code == 0 and "# Source: layers/layer-params-170.cfg:201\npca_jitter_off_epoch = 68.0" in out
    (tmp_path / "170.toml").write_text(out)
    assert load_recipe(str(tmp_path / "170.toml")) == load_recipe("170")
    code, out, _ = call(capsys, "recipes", tmp_path / "170.toml")  # a file of the user's: its values may be anybody's
    assert code == 0 and "Source:" not in out
    code, out, _ = call(capsys, "recipes")
    assert code == 0 and all(f"\n{name}\n" in f"\n{out}" for name in recipe_names())
