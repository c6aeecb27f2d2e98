"""The command `convert`: the regularizers of a Keras model as jaxreg rules."""

import argparse
import json
import sys
from pathlib import Path

from jaxreg._commands.checkpoints import files, keras_file, keras_rules
from jaxreg._core.text import printable

NAME = "convert"
SUMMARY = "the regularizers of a Keras model as jaxreg rules"
DESCRIPTION = """\
Write the weight regularizers of a Keras model as the JSON of a TreeRegularizer.
MODEL is a .keras archive, a legacy .h5 file or the JSON of model.to_json().
Keras is not needed, and nothing of the model is run. The patterns are `**/` and
Keras' names of the variables: **/dense/kernel. What rules on parameters cannot
say (activity regularizers, constraints, frozen layers) is named on the
standard error stream."""

EPILOG = """\
examples:
  python -m jaxreg convert model.keras > rules.json
  python -m jaxreg inspect model.keras --rules rules.json
and in Python:
  reg = jaxreg.TreeRegularizer.from_config(json.load(open("rules.json")))"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .keras archive, .h5 or JSON")


def run(args: argparse.Namespace) -> int:
    """Print the rules; return the exit code."""
    with files.one_line(args.model):
        rules, notes = keras_rules.convert(keras_file.read_config(args.model))
    print(json.dumps(rules.get_config(), indent=1))
    print(*map(printable, notes), sep="\n", end="\n" if notes else "", file=sys.stderr)
    return 0
