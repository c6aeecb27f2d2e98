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
            if blocks == 1:
                continue
            work = f"{blocks} of {of}, axis={axis}, MCP"
            tx = jaxreg.proximal_adam(RATE, jaxreg.Group(jaxreg.MCP(L1, 3.0), axis=axis))
            functions[work], works[work] = _running(tx, params), 2.0
        times = alternate(functions, config.rounds, config.at_least)
        for work, limit in works.items():
            pair = {"jaxreg": times[work], "plain Adam": times["plain Adam"]}
            found += ratios(FAMILY, work, pair, {"plain Adam": Limit("≤", limit)})
    return found + _of_units(config)


def _of_units(config: settings.Settings) -> list[Measurement]:
    """Units of two leaves, beside groups of the same entries in each leaf alone."""
    inputs, units = config.scaled(768, 48), config.scaled(3072, 192)
    params = settings.normal({"up": (inputs, units), "down": (units, inputs)})
    l1 = jaxreg.L1(L1)
    alone = jaxreg.TreeRegularizer({"up": jaxreg.Group(l1, axis=0), "down": jaxreg.Group(l1, axis=1)})
    functions = {
        "jaxreg": _running(jaxreg.proximal_adam(RATE, jaxreg.JointGroup(l1, {"up": 1, "down": 0})), params),
        "plain Adam": _running(optax.adam(RATE), params),
        "each leaf alone": _running(jaxreg.proximal_adam(RATE, alone), params),
    }
    times = alternate(functions, config.rounds, config.at_least)
    limits = {"plain Adam": Limit("≤", 2.0), "each leaf alone": Limit("≤", 1.15)}
    return ratios(FAMILY, "units of 768×3072 and 3072×768", times, limits)


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
