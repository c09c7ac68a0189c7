"""Shards to batches: DALI graphs and their hand-over to torch.  Knows no network."""
