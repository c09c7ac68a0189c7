"""The run directory: recipe, checkpoints, metrics, resume, figures."""
