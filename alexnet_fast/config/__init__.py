"""What a run is told: recipes, learning rate schedule, precision."""
