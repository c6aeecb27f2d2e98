"""Trainings, for tests of optimizers."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def trained(tx: Any, gradient: Callable[[Any], Any], params: Any, steps: int) -> tuple[Any, Any]:
    """The parameters and the state after some steps; `gradient` is that of the loss, at the parameters."""

    @jax.jit
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
