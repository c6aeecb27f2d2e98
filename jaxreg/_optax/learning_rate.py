"""The learning rate of the proximal operator: a number, a schedule, or injected; the scale of a plateau; momentum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import checks
from jaxreg._optax.metrics import find_states


def learning_rate_at(learning_rate: Any, momentum: Any, call: str = "proximal") -> Callable[[jax.Array, Any], Any]:
    """Return (count, state of the optimizer) -> η/(1 − momentum), times the scale of `reduce_on_plateau`."""
    if not isinstance(momentum, jax.core.Tracer):
        momentum = checks.step("proximal(momentum=...)", momentum, ())
        if not momentum < 1:
            raise ValueError(f"`proximal(momentum=...)` must be less than 1, got {momentum}.")
    if learning_rate is not None and not callable(learning_rate):
        learning_rate = checks.step(f"{call}(learning_rate=...)", learning_rate, ())

    def at(count: jax.Array, inner_state: Any) -> Any:
        if learning_rate is None:
            eta = _injected_learning_rate(inner_state, call)
        else:
            eta = learning_rate(count) if callable(learning_rate) else learning_rate
            checks.real(f"`{call}(learning_rate=...)` takes a real step", jnp.asarray(eta))
        for plateau in plateaus(inner_state):
            eta *= plateau.scale
        return eta / (1 - momentum)

    return at


def plateaus(state: Any) -> list[Any]:
    """The states of `reduce_on_plateau` in a state."""
    return find_states(state, (optax.contrib.ReduceLROnPlateauState,))


def plateaus_at(scale: float, state: Any) -> Any:
    """Set the scale of every `reduce_on_plateau` in a state."""
    kind = optax.contrib.ReduceLROnPlateauState
    return jax.tree.map(
        lambda node: node._replace(scale=jnp.full_like(node.scale, scale)) if isinstance(node, kind) else node,
        state,
        is_leaf=lambda node: isinstance(node, kind),
    )


def _injected_learning_rate(state: Any, call: str) -> Any:
    found = optax.tree.get_all_with_path(
        state, "learning_rate", filtering=lambda _, value: not isinstance(value, tuple)
    )
    if len(found) != 1:
        raise ValueError(
            f"`{call}(learning_rate=None)` reads the learning rate from `optax.inject_hyperparams`, but the state "
            f"holds {len(found)} of that name. Give `learning_rate` as a number or a schedule."
        )
    return jnp.real(found[0][1])  # optax holds it in the dtype of the parameters, which may be complex
