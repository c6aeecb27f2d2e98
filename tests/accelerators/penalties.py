"""The programs of penalties: value, gradient, and the two proximal operators, of every case of the tests."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from tests import cases, constraint_cases
from tests.accelerators.targets import Target

SHAPE, SQUARE = (4096, 1024), (1024, 1024)
ON = ("v5e", "H100")  # penalties are compiled for these targets
OTHERS = (
    jaxreg.Group(jaxreg.L1(0.3), axis=1),
    jaxreg.L1(0.1) + jaxreg.Group(jaxreg.L1(0.3), axis=0),
    jaxreg.Anchored(jaxreg.L1(0.3), 0.5),
    jaxreg.Difference(jaxreg.L1(0.3), axis=0),
    jaxreg.Stacked(jaxreg.HoyerSquare(0.3)),
)

PROGRAMS: dict[str, Callable[[jaxreg.Regularizer], Callable[..., Any]]] = {
    "value": lambda reg: reg.__call__,
    "gradient": jax.grad,
    "prox": lambda reg: lambda z: reg.prox(z, 0.1),
    "prox, a step an entry": lambda reg: reg.prox,
}
# What any such program has to read and write, and nothing else, is the yardstick of its cost: a function, and how often
# that is. With a step an entry two arrays are read and one is written, where a scaling reads one and writes one.
YARDSTICKS: dict[str, tuple[Callable[..., Any], float]] = {
    "value": (lambda x: jnp.sum(jnp.square(x)), 1.0),
    "gradient": (lambda x: 2 * x, 1.0),
    "prox": (lambda x: 2 * x, 1.0),
    "prox, a step an entry": (lambda x: 2 * x, 1.5),
}


@functools.cache
def penalties() -> dict[str, jaxreg.Regularizer]:
    """By name: the cases of the tests, and what they lack."""
    sets = [case.constraint for case in constraint_cases.CASES]
    return {repr(reg): reg for reg in (*(case.regularizer for case in cases.ALL_CASES), *OTHERS, *sets)}


def names() -> list[tuple[str, str]]:
    """The penalty and the program, in the order of the table. The gradient of a set is 0 or nothing."""
    return [
        (name, program)
        for name, reg in penalties().items()
        for program in PROGRAMS
        if not (program == "gradient" and isinstance(reg, jaxreg.Constraint))
    ]


def is_of_matrices(reg: jaxreg.Regularizer) -> bool:
    """Whether it multiplies or decomposes matrices: it refuses an array of rank 3, or is made for one."""
    if isinstance(reg, jaxreg.Matrix):
        return True
    try:
        jax.eval_shape(reg, jax.ShapeDtypeStruct((2, 2, 2), jnp.float32))
    except ValueError:
        return True
    return False


def program(name: str, program: str, target: Target) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and its arguments; the yardstick takes the first."""
    reg = penalties()[name]
    x = target.array(SQUARE if is_of_matrices(reg) else SHAPE)
    return PROGRAMS[program](reg), (x, x) if "entry" in program else (x,)
