"""The command `demo`: its options and its steps."""

import argparse

from jaxreg._commands import cli

_MODULES = {"flax": "flax", "matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn"}

NAME = "demo"
SUMMARY = "train a network on digits with four kinds of regularization; a table and a picture"
DESCRIPTION = """\
Train a small Flax network on scikit-learn's handwritten digits four times:

  no penalty         to compare with
  L2 in the loss     jaxreg.TreeRegularizer of the parameters, in a jitted loss
  module attributes  kernel_regularizer, activity_regularizer of Flax layers
  L1 by proximal     jaxreg.proximal around optax: zeros that are exactly 0

A table is printed, and saved as table.txt; weights.png has the learning curves
and the weights of the first layer as images. Nothing is downloaded."""

EPILOG = """\
examples:
  python -m jaxreg demo
  python -m jaxreg demo --model nnx --seed 1 --out digits-nnx
  python -m jaxreg demo --steps 500     a first look; L1 needs more"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--model", choices=("linen", "nnx"), default="linen", help="the Flax API (default: linen)")
    parser.add_argument(
        "--steps", type=cli.positive_int, default=6000, metavar="N", help="training steps of each run (default: 6000)"
    )
    parser.add_argument(
        "--seed", type=cli.seed, default=0, metavar="N", help="seed of weights and batches (default: 0)"
    )
    cli.add_out(parser, "jaxreg-demo")


def run(args: argparse.Namespace) -> int:
    """Train, print the table, write the files; return the exit code."""
    cli.require("demo", _MODULES)
    from jaxreg._commands import report  # here and not above: these need the extra
    from jaxreg._commands.demo import picture, table, training

    out = cli.make_directory(args.out)
    results = training.train_all(args.model, args.steps, args.seed)
    parts = table.parts(results)
    try:
        report.show(*parts)
    finally:  # also if the reader of the table has gone
        with cli.writing_into(out):
            paths = [report.save(out / "table.txt", *parts), picture.save(results, out / "weights.png")]
    print(*paths, sep="\n")
    return 0
