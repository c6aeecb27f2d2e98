"""A jitted loss with the penalty of the tree inside: forward and backward."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from tests.benchmarks import peers, programs, settings
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.timing import Function, alternate

L1, L2 = 1e-4, 1e-3
FAMILY, WORK = "value and gradient", "L1L2 of the tree in a jitted loss"


def measure(config: settings.Settings) -> list[Measurement]:
    params = settings.transformer(config)
    reg = jaxreg.TreeRegularizer({"**": jaxreg.L1L2(L1, L2)})

    def by_hand(params: Any) -> Any:
        return sum(L1 * jnp.sum(jnp.abs(x)) + L2 * jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))

    losses = {"jaxreg": reg, "jnp": by_hand}
    if peers.keras is not None:
        keras_reg = peers.keras.regularizers.L1L2(L1, L2)
        losses["Keras"] = lambda params: sum(keras_reg(x) for x in jax.tree.leaves(params))
    compiled = {name: programs.compiled_gradient(loss, params) for name, loss in losses.items()}
    functions = {name: _running(program, params) for name, program in compiled.items()}
    times = alternate(functions, config.rounds, config.at_least)
    found = ratios(FAMILY, WORK, times, {"Keras": Limit("≤", 0.5), "jnp": None})
    size = settings.nbytes(params)
    for name, program in compiled.items():
        limit = Limit("≤", 0.01) if name == "jaxreg" else None
        found.append(
            exact(FAMILY, f"{WORK}: temporaries, {name}", "-", programs.temporaries(program) / size, "trees", limit)
        )
        found.append(
            exact(FAMILY, f"{WORK}: bytes accessed, {name}", "-", programs.accessed(program) / size, "trees", None)
        )
    return found


def _running(program: Any, params: Any) -> Function:
    """A function that writes each gradient over the last one, as training does."""
    grads = jax.tree.map(jnp.zeros_like, params)

    def run() -> Any:
        nonlocal grads
        value, grads = program(params, grads)
        return value

    return run
