"""Every claim of speed, measured beside the peers: `python -m tests.benchmarks [--quick] [--out FILE]`."""
