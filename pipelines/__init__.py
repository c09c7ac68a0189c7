"""Shards to batches: DALI pipelines whose outputs are torch tensors.  Imports no network."""
