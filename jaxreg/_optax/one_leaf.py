"""The proximal step of one leaf: its step sizes, with their bound, and its operator, or inner steps for that."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._optax import groups
from jaxreg._optax.leaves import Row, refuse_frozen_leaves
from jaxreg._optax.metrics import Metric, Moments
from jaxreg._rules.tree_penalty import TreePenalty


def prox(inner_steps: int | None) -> Callable[[Regularizer | None, jax.Array, jax.Array, jax.Array], jax.Array]:
    if inner_steps is not None and (type(inner_steps) is not int or inner_steps < 1):
        raise ValueError(f"`proximal(inner_steps=...)` takes None or an int from 1, got {checks.short(inner_steps)}.")

    def of_leaf(regularizer: Regularizer | None, p: jax.Array, z: jax.Array, step: jax.Array) -> jax.Array:
        if regularizer is None:  # its groups lie in other leaves too
            return z
        if inner_steps is not None and not _has_prox(regularizer, z, step):
            return regularizer.approximate_prox(p, z, step, inner_steps)
        try:
            return regularizer.prox(z, step)
        except NotImplementedError as error:
            more = " `proximal(inner_steps=...)` would do for `Difference`, and where a scalar step has a closed form."
            raise NotImplementedError(f"{error}{more if inner_steps is None else ''}") from None

    return of_leaf


def _has_prox(reg: Regularizer, z: jax.Array, step: jax.Array) -> bool:
    """Whether `reg.prox(z, step)` has a closed form; traces it and computes nothing."""
    try:
        jax.eval_shape(reg.prox, z, step)
    except NotImplementedError:
        return False
    return True


def step_sizes(metric: Metric, max_step: Any) -> Callable[..., jax.Array]:
    """Return (regularizer, its groups, parameter, norms of groups, η, leaf of the metric, slope if known) -> τ."""

    def of_leaf(
        regularizer: Regularizer,
        form: groups.Grouped | None,
        p: jax.Array,
        r: Any,
        eta: Any,
        leaf: Any,
        known: Any = None,
    ) -> jax.Array:
        eta = jnp.asarray(eta, numerics.real_dtype(p))

        def at_p() -> jax.Array:  # 0: no bound on what inner steps approximate
            if known is not None:
                return jnp.asarray(known)
            if form is not None:
                return form.slope(p, r)
            return slope(regularizer, p) if _has_prox(regularizer, p, jnp.zeros_like(p, eta.dtype)) else 0 * eta

        tau = metric.step(eta, leaf, at_p if max_step is None else None)
        if tau.ndim and isinstance(metric, Moments):  # one number a unit; the shapes are known to be right
            tau = jnp.broadcast_to(tau, p.shape)
        if tau.shape not in ((), p.shape):
            raise ValueError(
                f"`proximal(metric=...)`: the step sizes of a leaf of shape {p.shape} have that shape or (), "
                f"got {tau.shape}."
            )
        return tau if max_step is None else jnp.minimum(tau, jnp.asarray(max_step, tau.dtype))

    return of_leaf


def slopes_in_joint(reg: TreePenalty, rows: Sequence[Row], metric_leaves: Sequence[Any]) -> list[Any]:
    """|∂R/∂p_i| of leaves that have one penalty together, None for the others; all of them must be stepped."""
    refuse_frozen_leaves(rows, metric_leaves)
    places = [i for i, row in enumerate(rows) if row.regularizer is not None]
    found = reg.slopes_of_leaves([numerics.promote(rows[i].param) for i in places])
    by_place = dict(zip(places, found, strict=True))
    return [by_place.get(i) for i in range(len(rows))]


def slope(regularizer: Regularizer, p: jax.Array) -> jax.Array:
    """|∂R/∂p_i|, the least one at a kink: 0 where p_i is 0."""
    if (rho := regularizer.scalar()) is not None:
        return jnp.where(p == 0, 0, rho.slope(jnp.abs(p)))  # without the signs that it would lose here again
    return jnp.abs(jax.grad(regularizer)(p))
