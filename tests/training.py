"""Trainings, for tests of optimizers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

# For programs of thousands of steps: a compilation takes half a second more, a run half the time. All optimizations
# would take seconds more.
SOME_OPTIMIZATIONS = {"xla_backend_optimization_level": 1}


def trained(tx: Any, gradient: Callable[[Any], Any], params: Any, steps: int) -> tuple[Any, Any]:
    """The parameters and the state after some steps; `gradient` is that of the loss, at the parameters."""

    @functools.partial(jax.jit, compiler_options=SOME_OPTIMIZATIONS)
    def run(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0]

    return run(params)


def after_updates(tx: Any, params: Any, grads: Any, steps: int = 1) -> tuple[Any, Any]:
    """The parameters and the state after some steps with the same gradients."""
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state
