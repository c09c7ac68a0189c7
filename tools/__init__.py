"""Images to shards: the preprocessing tools.  Knows no GPU, imports neither torch nor DALI."""
