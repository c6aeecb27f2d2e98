"""The README's table of penalties, made from the classes: `python -m tests.penalty_table` prints it."""

import json
import re

import jax.numpy as jnp

import jaxreg
from jaxreg.penalties import PENALTIES
from tests.cases import ALL_CASES

HEADER = "| penalty | value | prox | in a diagonal metric | JSON | elsewhere |\n|---|---|---|---|---|---|"

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
    "Difference": "pyproximal, fastprox (with prox)",
    "Anchored": "pyproximal",
    "NonNegative": "Keras, optax, jaxopt",
    "Box": "optax, jaxopt, pyproximal",
    "MaxNorm": "Keras, optax (one group)",
    "UnitNorm": "Keras, optax (one group)",
    "L1Ball": "optax, jaxopt, pyproximal",
    "Simplex": "optax, jaxopt, pyproximal",
}
INSTANCES = {type(case.regularizer): case.regularizer for case in reversed(ALL_CASES)} | {
    jaxreg.Anchored: jaxreg.Anchored(jaxreg.L2(0.5), 1.0),
    jaxreg.Group: jaxreg.Group(jaxreg.L1(0.5)),
    jaxreg.Stacked: jaxreg.Stacked(jaxreg.L2(0.5)),
    jaxreg.NonNegative: jaxreg.NonNegative(),
    jaxreg.Box: jaxreg.Box(-1.0, 1.0),
    jaxreg.MaxNorm: jaxreg.MaxNorm(),
    jaxreg.UnitNorm: jaxreg.UnitNorm(0),
    jaxreg.L1Ball: jaxreg.L1Ball(1.0),
    jaxreg.Simplex: jaxreg.Simplex(),
    jaxreg.SpectralBall: jaxreg.SpectralBall(1.0),
}


def table() -> str:
    rows = [_row(cls) for cls in PENALTIES if cls not in (jaxreg.Sum, jaxreg.Scaled, jaxreg.Function)]
    return "\n".join([HEADER, *rows])


def _row(cls: type[jaxreg.Regularizer]) -> str:
    reg = INSTANCES[cls]
    cells = [f"`{cls.__name__}`", _value(cls), _prox(reg, 0.5), _prox(reg, jnp.full((3, 3), 0.5)), _json(reg)]
    return f"| {' | '.join(cells)} | {ELSEWHERE.get(cls.__name__, '–')} |"


def _value(cls: type) -> str:
    """The first line of the docstring's formula."""
    lines = [line.strip() for line in (cls.__doc__ or "").splitlines()]
    line = next(line for line in lines if line.startswith(("R(", "{")))
    line = re.sub(r"^R\(\w\) = ", "", line)
    return re.split(r"\s{4,}", line)[0].rstrip(",").replace("|", r"\|").strip()


def _prox(reg: jaxreg.Regularizer, step: object) -> str:
    try:
        reg.prox(jnp.eye(3), step)  # type: ignore[arg-type]
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
    print(table())
