"""A step of Adam with a group lasso on every entry of large kernels, beside the plain one."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxreg
from tests.benchmarks import programs, settings
from tests.benchmarks.measurement import Limit, Measurement, ratios
from tests.benchmarks.timing import Function, alternate
from tests.benchmarks.transformations import L1, RATE

FAMILY = "groups"


def measure(config: settings.Settings) -> list[Measurement]:
    sizes = ((768, 3072), 4), ((2048, 8192), 1)
    found = []
    for shape, blocks in sizes:
        small = tuple(config.scaled(n, n // 16) for n in shape)
        params = settings.normal({str(i): small for i in range(blocks)})
        of = "×".join(map(str, shape))
        functions, works = {"plain Adam": _running(optax.adam(RATE), params)}, {}
        for axis in (-2, -1):
            for moments, limit in (("entry", 2.0), ("group", 1.15)):
                work = f"{blocks} of {of}, axis={axis}" + (", moments by group" if moments == "group" else "")
                tx = jaxreg.proximal_adam(RATE, jaxreg.Group(jaxreg.L1(L1), axis=axis), moments=moments)
                functions[work], works[work] = _running(tx, params), limit
        times = alternate(functions, config.rounds, config.at_least)
        for work, limit in works.items():
            pair = {"jaxreg": times[work], "plain Adam": times["plain Adam"]}
            found += ratios(FAMILY, work, pair, {"plain Adam": Limit("≤", limit)})
    return found


def _running(transformation: optax.GradientTransformation, params: Any) -> Function:
    """A function that goes one step further on its own copy of the parameters, always with the same gradients."""
    step = programs.step(transformation)
    gradients = settings.normal(jax.tree.map(lambda x: x.shape, params), seed=1)
    current = [jax.tree.map(jnp.copy, params), transformation.init(params)]
    program = programs.compile_(step, *current, gradients, donate=(0, 1))

    def run() -> Any:
        current[:] = program(*current, gradients)
        return current[0]

    return run
