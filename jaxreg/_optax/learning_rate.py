"""The learning rate of the proximal operator: a number, a schedule, or injected; momentum."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxreg._core import checks


def learning_rate_at(learning_rate: Any, momentum: Any) -> Callable[[jax.Array, Any], Any]:
    """Return (count, state of the optimizer) -> η/(1 − momentum)."""
    if not isinstance(momentum, jax.core.Tracer):
        momentum = checks.step("proximal(momentum=...)", momentum, ())
        if not momentum < 1:
            raise ValueError(f"`proximal(momentum=...)` must be less than 1, got {momentum}.")
    if learning_rate is None:
        return lambda count, inner_state: _injected_learning_rate(inner_state) / (1 - momentum)
    if callable(learning_rate):
        return lambda count, inner_state: learning_rate(count) / (1 - momentum)
    step = checks.step("proximal(learning_rate=...)", learning_rate, ())
    return lambda count, inner_state: step / (1 - momentum)


def _injected_learning_rate(state: Any) -> Any:
    found = optax.tree.get_all_with_path(
        state, "learning_rate", filtering=lambda _, value: not isinstance(value, tuple)
    )
    if len(found) != 1:
        raise ValueError(
            "`proximal(learning_rate=None)` reads the learning rate from `optax.inject_hyperparams`, but the state "
            f"holds {len(found)} of that name. Give `learning_rate` as a number or a schedule."
        )
    return found[0][1]
