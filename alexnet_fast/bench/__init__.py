"""All measurements: those of `bench`, and programs such as `python -m alexnet_fast.bench.sharding`."""
