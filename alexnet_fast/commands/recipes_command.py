"""`alexnet-fast recipes`: the recipes, and where their numbers come from."""

from __future__ import annotations

import textwrap

import click


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the recipes; with NAME (or a .toml file) show all keys of one, each with its meaning and its source.

    Its output is a recipe file: `alexnet-fast recipes 2013 > mine.toml`, then `alexnet-fast train --recipe mine.toml`.
    """
    from alexnet_fast.config.recipe import FOLDER, key_sources, load_recipe, recipe_names

    if name is not None:
        recipe = load_recipe(name)
        known_sources = key_sources(FOLDER / f"{name}.toml") if name in recipe_names() else None
        click.echo(recipe.to_toml(sources=known_sources), nl=False)
        return
    for known in recipe_names():
        recipe = load_recipe(known)
        click.secho(known, bold=True)
        for text in (recipe.description, f"From: {recipe.source}", f"Expected: {recipe.expected}"):
            click.echo(textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="        "))
    click.echo(
        "\n`alexnet-fast recipes NAME` shows every key and its source, `alexnet-fast info --recipe NAME` the network; "
        "`train --set KEY=VALUE` changes a key."
    )
