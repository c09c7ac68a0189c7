"""Images to shards: plan, workers, tars, verification."""
