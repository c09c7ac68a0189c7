"""A trained network: load, evaluate, predict, export."""
