"""The command `inspect`: the summary of a trained model, without its code."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from jaxreg._commands import cli
from jaxreg._commands.checkpoints import files, keras_file, keras_layers, keras_rules
from jaxreg._core import checks
from jaxreg._reports.summary import summary
from jaxreg._reports.summary_table import Summary
from jaxreg._rules.tree import TreeRegularizer

NAME = "inspect"
SUMMARY = "the summary of a checkpoint: shapes, exact zeros, penalties"
DESCRIPTION = """\
Show what is in a checkpoint, leaf by leaf: shape, dtype, entries that are
exactly 0, and with rules the regularizer, its penalty and gradient norm.

CHECKPOINT is one of
  .npz            of NumPy; the names are the paths
  .safetensors    names with dots become paths: layers.0.weight, layers/0/weight
  Orbax           a directory; of a manager's, the last step
  Flax msgpack    flax.serialization.to_bytes, flax.training.checkpoints
  .keras, .h5     of a whole Keras model; its own regularizers are the rules,
                  unless --rules are given
  .weights.h5     of Keras; it numbers a layer's variables: dense/0, dense/1

Nothing in a file is run or unpickled. At most 100 000 arrays are read, and
1 GiB or 100 times the size of the file; HDF5 in a process of its own, for a
minute and a second more for each 20 MB."""

EPILOG = """\
rules.json is what TreeRegularizer(...).get_config() and `convert` write, or
the rules alone, as an object or as pairs; the first that matches decides:
  {"rules": [["**/bias", null], ["**/kernel", "l1"]]}
  {"**/bias": null, "**/kernel": "l1"}

examples:
  python -m jaxreg inspect model.safetensors
  python -m jaxreg inspect checkpoints/ --under params --rules rules.json
  python -m jaxreg inspect model.keras --json"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a file or an Orbax directory")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="JSON of a TreeRegularizer (default: no penalty)")
    parser.add_argument("--under", metavar="PATH", help="only the leaves below this path, which is left out of theirs")
    parser.add_argument("--json", action="store_true", help="JSON for machines instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the summary; return the exit code."""
    rules = None if args.rules is None else read_rules(args.rules)
    arrays = files.read(args.checkpoint)
    if args.under is not None:
        arrays = _under(args.under.strip("/"), arrays, args.checkpoint)
    try:
        result = summary(_own_rules(args.checkpoint) if rules is None else rules, arrays)
    except (TypeError, ValueError, NotImplementedError) as error:  # a penalty that does not fit its leaf
        which = args.checkpoint if args.rules is None else f"--rules {args.rules}"
        raise cli.UserError(f"{which}: {' '.join(str(error).split())}") from None
    if args.json:
        print(json.dumps(_finite(result.as_dict()), indent=1, allow_nan=False))
    else:
        _show(result)
    return 0


def read_rules(path: Path) -> TreeRegularizer:
    """Return the rules of a JSON file."""
    try:
        rules = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_different_keys)
        return TreeRegularizer.from_config({"rules": _pairs(rules)})
    except OSError as error:
        raise cli.UserError(f"--rules {path}: cannot read it ({error.strerror})") from None
    except UnicodeDecodeError:
        raise cli.UserError(f"--rules {path}: not a text file") from None
    except json.JSONDecodeError as error:
        raise cli.UserError(f"--rules {path}: no JSON ({error})") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise cli.UserError(f"--rules {path}: {' '.join(str(error).split())}") from None


def _different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a pattern that stands there twice: a dict would keep the last of its rules, and the first one decides."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {checks.short(key)} stands there twice. Give one of them another pattern.")
        found[key] = value
    return found


def _pairs(rules: Any) -> list[Any]:
    """The rules as pairs, out of what `get_config` writes or of what one writes by hand."""
    if isinstance(rules, dict) and set(rules) == {"rules"} and isinstance(rules["rules"], (dict, list)):
        rules = rules["rules"]
    if isinstance(rules, dict) and "class_name" not in rules:
        return [list(rule) for rule in rules.items()]
    if not isinstance(rules, list):
        raise ValueError(
            f"rules are an object or a list of pairs, got {checks.short(rules)}. One regularizer goes to all leaves by "
            '{"**": REGULARIZER}, for example {"**": "l1"}.'
        )
    return rules


def _own_rules(path: Path) -> TreeRegularizer:
    """The rules without `--rules`: those in the config of a Keras model that lists its layers, otherwise none."""
    config = keras_file.read_config(path) if keras_file.has_config(path) else None
    if not keras_layers.are_in(config):
        return TreeRegularizer()
    try:
        return keras_rules.convert(config).rules
    except cli.UserError as error:
        raise cli.UserError(f"{path}: {error} Or give the rules by --rules.") from None


def _under(prefix: str, arrays: files.Arrays, path: Path) -> files.Arrays:
    below = {name.removeprefix(f"{prefix}/"): leaf for name, leaf in arrays.items() if name.startswith(f"{prefix}/")}
    if not below:
        tops = sorted({name.partition("/")[0] for name in arrays})
        raise cli.UserError(f"--under {prefix}: nothing is below it in {path}; at the top are {', '.join(tops[:8])}")
    return below


def _show(result: Summary) -> None:
    if not sys.stdout.isatty() or cli.is_missing("rich") or not _can_show(str(result)):
        print(result if _can_show(str(result)) else str(result).translate(_PLAIN))
        return
    import rich

    rich.print(result)


_PLAIN = str.maketrans("─×…‖∇Σ", "-x~|dS")  # of the tables, where the output is ASCII or cp1252


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: Any) -> Any:
    """Replace nan and infinities, which JSON does not have, by strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
