"""The command `path`: its options and its steps."""

import argparse

from jaxreg._commands import cli

_MODULES = {"matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn"}

NAME = "path"
SUMMARY = "choose the strength of a penalty on digits by cross-validation; a table and a picture"
DESCRIPTION = """\
Choose the strength of an L1 penalty on scikit-learn's handwritten digits:
softmax regression is trained at every strength and on every fold of a
cross-validation, all in one program (jaxreg.path).

A table is printed, and saved as table.txt; path.png shows the scores, the
share of exact zeros, and the weights that are left at five strengths.
Nothing is downloaded."""

EPILOG = """\
examples:
  python -m jaxreg path
  python -m jaxreg path --strengths 40 --folds 10 --out digits-path"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--strengths", type=cli.positive_int, default=20, metavar="N", help="number of strengths (default: 20)"
    )
    parser.add_argument("--folds", type=_folds, default=5, metavar="N", help="number of folds (default: 5)")
    parser.add_argument("--seed", type=cli.seed, default=0, metavar="N", help="seed of the folds (default: 0)")
    cli.add_out(parser, "jaxreg-path")


def run(args: argparse.Namespace) -> int:
    """Train, print the table, write the files; return the exit code."""
    cli.require("demo", _MODULES)
    from jaxreg._commands import report  # here and not above: these need the extra
    from jaxreg._commands.path import experiment, picture, table

    out = cli.make_directory(args.out)
    result = experiment.run(args.strengths, args.folds, args.seed)
    parts = table.parts(result)
    try:
        report.show(*parts)
    finally:  # also if the reader of the table has gone
        with cli.writing_into(out):
            paths = [report.save(out / "table.txt", *parts), picture.save(result, out / "path.png")]
    print(*paths, sep="\n")
    return 0


def _folds(text: str) -> int:
    folds = cli.positive_int(text)
    if not 2 <= folds <= 100:
        raise argparse.ArgumentTypeError(f"must be a whole number from 2 to 100, got {text!r}")
    return folds
