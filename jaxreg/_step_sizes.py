"""The step sizes of the proximal operator: the learning rate, and the scale of each coordinate in a metric."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg import _checks, _numerics
from jaxreg._elementwise import Elementwise
from jaxreg._inner import has_prox
from jaxreg._metric import Metric
from jaxreg._pytree import Struct
from jaxreg._regularizer import Regularizer

# More than (1 − b1)/√(1 − b2) = 3.2, the most that Adam's defaults move a coordinate in learning rates: so the bound
# takes no zero away that the unbounded step would keep.
_PULL = 4.0


def learning_rate_at(learning_rate: Any, momentum: Any) -> Callable[[jax.Array, Any], Any]:
    """Return (count, state of the optimizer) -> η/(1 − momentum)."""
    if not isinstance(momentum, jax.core.Tracer):
        momentum = _checks.step("proximal(momentum=...)", momentum, ())
        if not momentum < 1:
            raise ValueError(f"`proximal(momentum=...)` must be less than 1, got {momentum}.")
    if learning_rate is None:
        return lambda count, inner_state: _injected_learning_rate(inner_state) / (1 - momentum)
    if callable(learning_rate):
        return lambda count, inner_state: learning_rate(count) / (1 - momentum)
    step = _checks.step("proximal(learning_rate=...)", learning_rate, ())
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


def leaf_step(metric: Any, max_step: Any) -> Callable[[Regularizer, jax.Array, Any, Any], jax.Array]:
    """Return (regularizer, z, η, scale) -> τ; scale is the divisor of η in optimizers' metrics, else its factor."""
    if metric is not None and (not callable(metric) or isinstance(metric, (type, Struct))):
        raise TypeError(
            "`proximal(metric=...)` takes None, `jaxreg.adam_metric(...)` or a function (state, params) -> step sizes, "
            f"got {_checks.short(metric)}."
        )
    if max_step is not None:
        max_step = _checks.step("proximal(max_step=...)", max_step, ())
    bounds_pull = max_step is None and isinstance(metric, Metric) and metric.bounds_gradient

    def step(regularizer: Regularizer, z: jax.Array, eta: Any, scale: Any) -> jax.Array:
        dtype = _numerics.real_dtype(z)
        eta, scale = jnp.asarray(eta, dtype), jnp.asarray(scale, dtype)
        if scale.shape not in ((), z.shape):
            raise ValueError(
                f"`proximal(metric=...)`: the step sizes of a leaf of shape {z.shape} have that shape or (), "
                f"got {scale.shape}."
            )
        if bounds_pull and has_prox(regularizer, z, scale):
            scale = jnp.maximum(scale, _slope(regularizer, z) / _PULL)  # τ ≤ 4η/slope, by one division
        tau = eta / scale if isinstance(metric, Metric) else eta * scale
        return tau if max_step is None else jnp.minimum(tau, jnp.asarray(max_step, dtype))

    return step


def _slope(regularizer: Regularizer, z: jax.Array) -> jax.Array:
    """|∂R/∂z_i|; at 0, where a penalty of entries stays whatever its step is, any number."""
    if isinstance(regularizer, Elementwise):
        return regularizer.slope(jnp.abs(z))  # without the signs that it would lose here again
    return jnp.abs(jax.grad(regularizer)(z))


def leaf_scales(metric: Any, state: Any, params: Any, treedef: Any) -> tuple[list[Any], Callable[[Any], Any]]:
    """Return a value for each leaf, and what makes of it the `scale` of `leaf_step`; None for leaves at rest."""
    if isinstance(metric, Metric):
        moments, divisor = metric.read(state)
        return _like(treedef, moments), divisor
    return _like(treedef, 1.0 if metric is None else metric(state, params)), lambda scale: scale


def _like(treedef: Any, scales: Any) -> list[Any]:
    if isinstance(scales, float):
        return [scales] * treedef.num_leaves
    if callable(scales):
        raise TypeError(
            "`proximal(metric=...)` takes a function (state, params) -> step sizes; this one gave "
            f"{_checks.short(scales)}. `jaxreg.adam_metric` and its like must be called: `metric=jaxreg.adam_metric()`."
        )
    try:
        return list(treedef.flatten_up_to(scales))
    except ValueError as error:
        raise ValueError(f"`proximal(metric=...)` must give step sizes like the parameters: {error}") from None
