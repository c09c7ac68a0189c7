"""Recipes, one TOML file each; `alexnet_fast.recipe` documents every key."""
