"""`python -m tests.benchmarks.pruning`: what can be removed from four networks, found by jaxreg and Torch-Pruning."""

import argparse
import importlib.util
import warnings
from pathlib import Path

from tests.benchmarks.pruning import measure, report
from tests.benchmarks.pruning.networks import NETWORKS


def main() -> None:
    parser = argparse.ArgumentParser(prog=report.COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print such a file as a Markdown table, and end")
    args = parser.parse_args()
    if args.table:
        print(report.markdown(args.table))
        return
    peer = importlib.util.find_spec("torch_pruning") is not None
    if not peer:
        print("skipped: Torch-Pruning is not installed")
    rows = []
    for network in NETWORKS:
        rows += measure.ours(network)
        if peer:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows += measure.theirs(network)
    print(report.table(rows))
    if args.out:
        report.to_json(args.out, rows)


if __name__ == "__main__":
    main()
