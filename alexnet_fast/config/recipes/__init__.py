"""Recipes, one TOML file each; `alexnet_fast.config.recipe` documents every key."""
