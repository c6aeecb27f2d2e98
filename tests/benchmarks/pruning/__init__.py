"""`jaxreg.units` and `shrink` beside Torch-Pruning on the same networks: `python -m tests.benchmarks.pruning`."""
