"""Trees of many leaves: how long tracing and compiling takes as they grow."""

from collections.abc import Callable
from typing import Any

import jax

import jaxreg
from tests.accelerators import steps
from tests.accelerators.targets import Target
from tests.benchmarks import programs

SHAPES = [(8, 8), (16, 8), (12, 12), (8, 32), (4, 4, 4)]
ELEMENTWISE, GROUPS = "value and gradient of L1L2", "step of proximal_adam with groups"
# Work, the number of leaves, and the targets. Above a thousand leaves they are traced only.
TRACED_ONLY = 1_000
TREES = [
    *((ELEMENTWISE, leaves, target) for target in ("v5e", "H100") for leaves in (100, 1_000)),
    *((ELEMENTWISE, leaves, "v5e") for leaves in (10_000, 100_000)),
    *((GROUPS, leaves, target) for target in ("v5e", "H100") for leaves in (10, 100, 1_000)),
]


def program(work: str, leaves: int, target: Target) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...]]:
    """The function, its arguments, and which of them it may overwrite."""
    params = {f"layer_{i}": target.array(SHAPES[i % len(SHAPES)]) for i in range(leaves)}
    if work == ELEMENTWISE:
        return jax.value_and_grad(jaxreg.TreeRegularizer({"**": jaxreg.L1L2(0.1, 0.2)})), (params,), ()
    transformation = jaxreg.proximal_adam(1e-3, jaxreg.Group(jaxreg.L1(0.1), axis=0))
    args = (params, steps.state(transformation, params, target), params)
    return programs.step(transformation), args, (0, 1)
