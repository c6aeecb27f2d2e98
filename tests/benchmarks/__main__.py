"""`python -m tests.benchmarks`: every measurement, the table of ratios, and the JSON."""

import argparse
import gc
import time
from pathlib import Path

import jax
from rich.console import Console

from tests.benchmarks import (
    groups,
    growth,
    loss,
    machine,
    matrices,
    overhead,
    peers,
    penalty,
    prox,
    report,
    solvers,
    step,
    sweep,
)
from tests.benchmarks.settings import Settings

FAMILIES = {
    module.__name__.rpartition(".")[2]: module
    for module in (penalty, loss, step, groups, prox, sweep, matrices, overhead, growth, solvers)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: that all runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="some families")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print such a file as a Markdown table, and end")
    args = parser.parse_args()
    console = Console(width=None if Console().is_terminal else 200)
    if args.table:
        print(report.markdown(args.table))
        return
    console.print(machine.one_line(machine.description()))
    for name in peers.MISSING:
        console.print(f"skipped: {name} is not installed")
    rows = []
    for name in args.only:
        start = time.perf_counter()
        with console.status(f"{name} ..."):
            found = FAMILIES[name].measure(Settings(args.quick))
        report.show(console, found)
        console.print(f"[dim]{time.perf_counter() - start:.0f} s\n")
        rows += found
        if not args.quick:
            gc.collect()
            jax.clear_caches()
    if args.out:
        only = [] if args.only == list(FAMILIES) else ["--only", *args.only]
        command = " ".join(["python -m tests.benchmarks", *only, *(["--quick"] if args.quick else [])])
        report.to_json(args.out, rows, peers.MISSING, command)
    missed = [row for row in rows if row.reached is False]
    judged = sum(row.limit is not None for row in rows)
    note = " (which says nothing at the sizes of --quick)" if args.quick else ""
    console.print(f"{judged - len(missed)} limits reached, {len(missed)} missed{note}")


if __name__ == "__main__":
    main()
