"""`alexnet-fast recipes`: what there is, and where its numbers come from."""

from __future__ import annotations

import textwrap

import click


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the recipes; with NAME (or a .toml file) show all keys of one, each explained.

    Its output is a recipe file: `alexnet-fast recipes 2013 > mine.toml`, then `alexnet-fast train --recipe mine.toml`.
    """
    from alexnet_fast.config.recipe import load_recipe, recipe_names

    if name is not None:
        click.echo(load_recipe(name).to_toml(), nl=False)
        return
    for known in recipe_names():
        recipe = load_recipe(known)
        click.secho(known, bold=True)
        for text in (recipe.description, f"From: {recipe.source}", f"Expected: {recipe.expected}"):
            click.echo(textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="        "))
    click.echo("\n`alexnet-fast recipes NAME` shows every key; `--set KEY=VALUE` changes one for a run.")
