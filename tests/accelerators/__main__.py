"""`python -m tests.accelerators`: compile all for TPUs and GPUs that are not there, and print what it costs."""

import argparse
from pathlib import Path

from tests.accelerators import report
from tests.accelerators.targets import TARGETS
from tests.accelerators.worker import Compilers

FAMILIES = ("penalties", "steps", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.accelerators", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES, help="some families")
    parser.add_argument("--on", nargs="+", choices=TARGETS, default=list(TARGETS), help="some devices")
    parser.add_argument("--work", default="", metavar="TEXT", help="only what has this in its name")
    parser.add_argument("--limit", type=int, default=60, help="seconds of a processor for a program, default 60")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON; others that are there stay")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print such a file as Markdown tables, and end")
    args = parser.parse_args()
    if args.table:
        print(report.markdown(args.table))
        return
    wanted = [key for key in report.table() if key[0] in args.only and key[3] in args.on and args.work in key[1]]
    compilers = Compilers(args.limit)
    for i, (family, work, program, target) in enumerate(wanted, 1):
        result = compilers.compile(family, work, program, target)
        print(f"{i}/{len(wanted)} {report.line(result)}", flush=True)
        if args.out:
            report.write(args.out, result)
    compilers.close()


if __name__ == "__main__":
    main()
