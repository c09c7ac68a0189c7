"""Configuration of a run: recipes, learning rate schedule, precision."""
