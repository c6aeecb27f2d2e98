"""The tables of penalties, made from the classes.

    python -m tests.penalty_table                  # the table of README.md
    python -m tests.penalty_table --elsewhere      # that of jaxreg/penalties/README.md: which libraries have it too

Paste what they print; tests compare both files with it.
"""

import argparse
import itertools
import json
import re

import jax
import jax.numpy as jnp

import jaxreg
from jaxreg.penalties import PENALTIES
from tests import constraint_cases
from tests.cases import ALL_CASES

HEADER = ["penalty", "value", "prox", "in a diagonal metric", "JSON"]

# Who else has it, by the documentation of Keras 3.15, optax 0.2.8, jaxopt, pyproximal 0.13, skglm 0.5, fastprox 1.0.
ELSEWHERE = {
    "L1": "Keras, jaxopt, pyproximal, skglm, fastprox",
    "L2": "Keras, jaxopt, pyproximal, skglm, fastprox",
    "L1L2": "Keras, jaxopt, skglm, fastprox",
    "OrthogonalRegularizer": "Keras",
    "L0": "pyproximal, fastprox",
    "Lq": "skglm (½, ⅔), fastprox",
    "LogSum": "pyproximal, skglm, fastprox",
    "MCP": "skglm (for step < gamma), fastprox",
    "SCAD": "pyproximal, skglm, fastprox",
    "Huber": "pyproximal, fastprox",
    "Group": "jaxopt (one group), pyproximal, skglm, fastprox (some profiles)",
    "Spectral": "pyproximal, fastprox",
    "SpectralNorm": "fastprox",
    "SLOPE": "skglm",
    "Difference": "pyproximal, fastprox (with prox)",
    "Anchored": "pyproximal",
    "Weighted": "skglm (L1, MCP, groups)",
    "NonNegative": "Keras, optax, jaxopt",
    "Box": "optax, jaxopt, pyproximal",
    "MaxNorm": "Keras, optax (one group)",
    "UnitNorm": "Keras, optax (one group)",
    "L1Ball": "optax, jaxopt, pyproximal",
    "Simplex": "optax, jaxopt, pyproximal",
    "TopK": "pyproximal",
}
INSTANCES: dict[type[jaxreg.Regularizer], jaxreg.Regularizer] = {
    **{type(case.regularizer): case.regularizer for case in reversed(ALL_CASES)},
    **constraint_cases.INSTANCES,
    jaxreg.Anchored: jaxreg.Anchored(jaxreg.L2(0.5), 1.0),
    jaxreg.Group: jaxreg.Group(jaxreg.L1(0.5)),
    jaxreg.Difference: jaxreg.Difference(jaxreg.L1(0.5)),
    jaxreg.Stacked: jaxreg.Stacked(jaxreg.L2(0.5)),
    jaxreg.Matrix: jaxreg.Matrix(jaxreg.Group(jaxreg.L1(0.5))),
}


def table(elsewhere: bool = False) -> str:
    """One row a penalty, in Markdown; with a last column for other libraries, or without."""
    rows = [_row(cls) for cls in PENALTIES if cls not in (jaxreg.Sum, jaxreg.Scaled, jaxreg.Function)]
    header = [*HEADER, "elsewhere"]
    shown = [row[: None if elsewhere else -1] for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown).replace("| --- ", "|---").replace("--- |", "---|")


def _row(cls: type[jaxreg.Regularizer]) -> list[str]:
    reg = INSTANCES[cls]
    proxes = [_prox(reg, step) for step in (0.5, jnp.full((3, 3), 0.5))]
    return [f"`{cls.__name__}`", _value(cls), *proxes, _json(reg), ELSEWHERE.get(cls.__name__, "–")]


def _value(cls: type) -> str:
    """The docstring's formula: its first line without remarks that stand far to the right, or all of its cases."""
    lines = (cls.__doc__ or "").splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith(("R(", "{")))
    cases = list(itertools.takewhile(lambda line: _indent(line) > _indent(lines[first]) + 8, lines[first + 1 :]))
    formula = re.sub(r"^R\(\w\) = ", "", lines[first].strip())
    if cases:
        formula = "; ".join(re.sub(r"\s{4,}", " ", case.strip()) for case in (formula, *cases))
    return re.split(r"\s{4,}", formula)[0].rstrip(",").replace("|", r"\|").strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _prox(reg: jaxreg.Regularizer, step: object) -> str:
    try:
        jax.eval_shape(reg.prox, jnp.eye(3), step)  # refused before anything is compiled
    except NotImplementedError:
        return "no"
    return "yes"


def _json(reg: jaxreg.Regularizer) -> str:
    text = json.dumps(jaxreg.serialize(reg))
    try:
        return "yes" if jaxreg.deserialize(json.loads(text)) == reg else "no"
    except ValueError:
        return "without arrays"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elsewhere", action="store_true", help="add the column of other libraries")
    print(table(parser.parse_args().elsewhere))
